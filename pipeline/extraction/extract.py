"""``extract``: every image goes through the backbone once, its activations into the cache."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.publish import make_folder
from permafrost.cache.store.folders import mark_used, open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.leases import Leases, Uses
from permafrost.pipeline.errors import PipelineError, UnreadableError
from permafrost.pipeline.extraction.results import list_failures, write_results
from permafrost.pipeline.extraction.summary import ExtractSummary, Tally, summarize
from permafrost.pipeline.forward.program import build_program
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.pipeline.planning.remembered import recall_failures, remember_rate, remember_sets
from permafrost.pipeline.progress import show_progress
from permafrost.stages.engines.support import check_precision

if TYPE_CHECKING:
    from permafrost.pipeline.extraction.claims import Claims
    from permafrost.pipeline.extraction.writer import ActivationWriter
    from permafrost.pipeline.forward.batch import LoadedBatch


def extract(
    options: ExtractOptions, out: Path, *, dataset: Dataset | None = None
) -> ExtractSummary:
    """Compute what is missing and write ``features.h5``.

    Parameters
    ----------
    options : ExtractOptions
    out : Path
        The view; ``<out>.failures.csv`` beside it lists the images that could not be read.
    dataset : Dataset, optional
        What `options` name, where it is listed and hashed already.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each; see their modules.
    """
    tally = Tally()
    layout = open_cache(options.cache)
    _check_out(out)
    with Index(layout.index_file) as index, Uses(layout.leases_folder) as uses:
        prepared = fill_cache(options, layout, index, tally, uses, dataset=dataset)
        failed = write_results(options, prepared, tally, index, out=out)
    return summarize(options, prepared, tally, failed=failed, out=out)


def _check_out(out: Path) -> None:
    """Refuse, before any work, an output file that cannot be written."""
    if out.is_dir():
        raise PipelineError(f"--out {str(out)!r} is a folder; name a file in it, as features.h5")
    make_folder(out.parent)


def fill_cache(  # noqa: PLR0913
    options: ExtractOptions,
    layout: CacheLayout,
    index: Index,
    tally: Tally,
    uses: Uses,
    *,
    quiet: bool = False,
    dataset: Dataset | None = None,
) -> Preparation:
    """Compute what is missing: `extract` without the view.

    Parameters
    ----------
    options : ExtractOptions
    layout : CacheLayout
    index : Index
    tally : Tally
        Is told what happened.
    uses : Uses
        Is told which feature sets the caller reads afterwards.
    quiet : bool
        Whether to show no progress.
    dataset : Dataset, optional
        As in `extract`.
    """
    started_s = time.monotonic()
    prepared = prepare(options, layout, index, uses=uses, dataset=dataset)
    tally.shares.planning = time.monotonic() - started_s
    tally.unreadable.update(prepared.dataset.unreadable)
    _stop_on_failure(options, prepared, tally)
    remember_sets(index, options.features, prepared.layout, prepared.plan.layers)
    remove_orphans(prepared.layout.leases_folder)
    for layer in prepared.plan.layers:
        remove_orphans(layer.features.folder)
        mark_used(layer.features.folder)  # so that gc does not drop what this run relies on
    if prepared.plan.digests:
        compute_missing(options, prepared, index, tally, quiet=quiet)
    return prepared


def compute_missing(
    options: ExtractOptions, prepared: Preparation, index: Index, tally: Tally, *, quiet: bool
) -> None:
    """Load → forward → write, overlapped: the loop of the whole project."""
    from permafrost.pipeline.extraction.claims import Claims
    from permafrost.pipeline.forward.drift import noting_drift
    from permafrost.pipeline.forward.forward_pass import ForwardPass
    from permafrost.pipeline.forward.loader import load_ahead, open_loaders

    features, plan = options.features, prepared.plan
    if plan.of_network:
        check_precision(features.engine, features.precision)
    shares = tally.shares
    with ExitStack() as stack:
        keys = [layer.features.key for layer in plan.active]
        leases = stack.enter_context(Leases(prepared.layout.leases_folder, keys))
        loaders = stack.enter_context(open_loaders(options.run))
        writer = stack.enter_context(_open_writer(options, prepared, leases, index))
        backbone = stack.enter_context(
            ForwardPass(lambda: build_program(features, prepared), shares)
        )
        claims = Claims(
            plan,
            leases,
            writer,
            batch_size=prepared.fitting.batch_size,
            find_failures=lambda: recall_failures(index, prepared.decoding, keys),
        )
        progress = show_progress(
            len(plan.digests),
            unit="images",
            note=lambda: claims.describe() or f"bottleneck: {shares.bottleneck}",
            quiet=quiet,
        )
        advance = stack.enter_context(progress)
        for tasks in claims.rounds(advance):
            loader = load_ahead(loaders, prepared, tasks, n_workers=options.run.workers)
            batches = noting_drift(backbone.run(loader), plan.active, backbone.run_once)
            for batch, activations in batches:
                _forget_changed(prepared, batch, index)
                _note_batch(options, prepared, batch, tally)
                writer.write(batch, activations)
                shares.disk = writer.waited_s
                advance(len(batch.rows))
    _note_end(tally, writer, claims)
    if tally.n_computed:
        remember_rate(index, plan.layers, tally.n_computed / shares.working)
    _stop_on_failure(options, prepared, tally)


def _open_writer(
    options: ExtractOptions, prepared: Preparation, leases: Leases, index: Index
) -> ActivationWriter:
    from permafrost.pipeline.extraction.writer import ActivationWriter

    for layer in prepared.plan.active:
        open_feature_set_folder(prepared.layout, layer.recipe)
    return ActivationWriter(
        prepared.plan,
        leases,
        index=index,
        decoding=prepared.decoding,
        on_error=options.run.on_error,
    )


def _note_batch(
    options: ExtractOptions, prepared: Preparation, batch: LoadedBatch, tally: Tally
) -> None:
    tally.n_computed += int(batch.readable.sum())
    tally.n_rotated += batch.n_rotated
    tally.exact.note(batch, prepared.plan)
    failed = batch.unreadable | batch.broken
    for row, reason in failed.items():
        tally.failed[prepared.plan.digests[batch.rows[row]]] = reason
    if failed:
        _stop_on_failure(options, prepared, tally)


def _forget_changed(prepared: Preparation, batch: LoadedBatch, index: Index) -> None:
    """Drop changed files from the index, so that the next run hashes them again."""
    from permafrost.pipeline.forward.batch import CHANGED

    changed = [batch.rows[row] for row, reason in batch.unreadable.items() if reason == CHANGED]
    if changed:
        paths = [prepared.plan.paths[row] for row in changed]
        index.forget_files(prepared.dataset.source.file_keys(paths))


def _note_end(tally: Tally, writer: ActivationWriter, claims: Claims) -> None:
    tally.shares.others = claims.waited_s
    tally.failed |= writer.refused | claims.failed
    tally.n_computed -= len(writer.refused) + writer.n_given_up
    tally.bytes_written = writer.bytes_written


def _stop_on_failure(options: ExtractOptions, prepared: Preparation, tally: Tally) -> None:
    if options.run.on_error == "fail":
        for path, reason in list_failures(prepared, tally):
            raise UnreadableError(path, reason)
