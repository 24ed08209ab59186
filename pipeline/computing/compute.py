"""The loop of the whole project: what is missing is loaded, run through the backbone, written."""

from __future__ import annotations

from contextlib import ExitStack

from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.leases import Leases
from permafrost.pipeline.computing.claims import Claims, Others
from permafrost.pipeline.computing.tally import Tally, stop_on_failure
from permafrost.pipeline.computing.writer import ActivationWriter
from permafrost.pipeline.forward.batch import CHANGED, LoadedBatch
from permafrost.pipeline.forward.drift import noting_drift
from permafrost.pipeline.forward.forward_pass import ForwardPass
from permafrost.pipeline.forward.loader import LoaderThreads, load_ahead
from permafrost.pipeline.forward.program import build_program
from permafrost.pipeline.forward.verdicts import Verdicts
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.planning.remembered import recall_failures
from permafrost.pipeline.progress import show_progress
from permafrost.stages.engines.registry import start_engine
from permafrost.stages.engines.support import check_precision


def compute_missing(  # noqa: PLR0913
    options: ExtractOptions,
    prepared: Preparation,
    index: Index,
    tally: Tally,
    *,
    quiet: bool,
    others: Others = "wait",
) -> int:
    """Load → forward → write, overlapped: the loop of the whole project.

    Returns how many rows were left to other runs, which `others` may allow.
    """
    features, plan = options.features, prepared.plan
    if plan.of_network:
        check_precision(features.engine, features.precision)
    shares, verdicts = tally.shares, Verdicts(index, options.run.program)
    with ExitStack() as stack:
        keys = plan.active_keys
        leases = stack.enter_context(Leases(prepared.layout.leases_folder, keys))
        loaders = stack.enter_context(LoaderThreads(options.run.n_threads))
        writer = stack.enter_context(_open_writer(options, prepared, leases, index))
        backbone = stack.enter_context(
            ForwardPass(
                lambda: build_program(features, prepared, verdicts),
                shares,
                start=lambda: start_engine(features.engine) if plan.of_network else None,
            )
        )
        claims = Claims(
            plan,
            leases,
            writer,
            batch_size=prepared.fitting.batch_size,
            find_failures=lambda: recall_failures(index, prepared.decoding, keys),
            others=others,
        )
        progress = show_progress(
            len(plan.digests),
            unit="images",
            note=lambda: claims.describe() or f"bottleneck: {shares.bottleneck}",
            quiet=quiet,
        )
        advance = stack.enter_context(progress)
        for tasks in claims.rounds(advance):
            loader = load_ahead(loaders, prepared, tasks, n_workers=options.run.n_threads)
            batches = noting_drift(backbone.run(loader), plan.active, backbone.run_once)
            for batch, activations in batches:
                _forget_changed(prepared, batch, index)
                _note_batch(options, prepared, batch, tally)
                writer.write(batch, activations)
                shares.disk = writer.waited_s
                advance(len(batch.rows))
    _note_end(tally, writer, claims)
    tally.verdict = verdicts.verdict
    stop_on_failure(options, prepared, tally)
    return claims.n_left


def _open_writer(
    options: ExtractOptions, prepared: Preparation, leases: Leases, index: Index
) -> ActivationWriter:
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
        stop_on_failure(options, prepared, tally)


def _forget_changed(prepared: Preparation, batch: LoadedBatch, index: Index) -> None:
    """Drop changed files from the index, so that the next run hashes them again."""
    changed = [batch.rows[row] for row, reason in batch.unreadable.items() if reason == CHANGED]
    if changed:
        paths = [prepared.plan.paths[row] for row in changed]
        index.forget_files(prepared.dataset.source.file_keys(paths))


def _note_end(tally: Tally, writer: ActivationWriter, claims: Claims) -> None:
    tally.shares.others = claims.waited_s
    tally.failed |= writer.refused | claims.failed
    tally.n_computed -= len(writer.refused) + writer.n_given_up
    tally.bytes_written = writer.bytes_written
