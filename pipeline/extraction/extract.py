"""``extract``: every image goes through the backbone once, its activations into the cache."""

from __future__ import annotations

import time
from pathlib import Path

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.publish import make_folder
from permafrost.cache.store.folders import mark_used
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.leases import Uses
from permafrost.cache.store.records import Cost, read_record, write_record
from permafrost.pipeline.computing.tally import COMPUTING, Tally, list_failures, stop_on_failure
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.extraction.results import write_results
from permafrost.pipeline.extraction.summary import ExtractSummary, Written, summarize
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.pipeline.planning.remembered import remember_rate, remember_sets


def extract(
    options: ExtractOptions, out: Path, *, dataset: Dataset | None = None
) -> ExtractSummary:
    """Compute what is missing and write ``features.h5``.

    Parameters
    ----------
    options : ExtractOptions
    out : Path
        The view; ``<out>.failures.csv`` beside it lists the images that could not be read. Neither
        is written of a part.
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
        if options.part is None:
            written = write_results(options, prepared, tally, index, out=out)
        else:
            written = Written(failed=list_failures(prepared, tally))
    return summarize(options, prepared, tally, written=written, out=out)


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
    stop_on_failure(options, prepared, tally)
    remember_sets(index, options.features, prepared.layout, prepared.plan.layers)
    remove_orphans(prepared.layout.leases_folder)
    for layer in prepared.plan.layers:
        remove_orphans(layer.features.folder)
        mark_used(layer.features.folder)  # so that gc does not drop what this run relies on
    if prepared.plan.digests:
        _compute(options, prepared, index, tally, quiet=quiet)
        _note_cost(prepared, tally)
    return prepared


def _note_cost(prepared: Preparation, tally: Tally) -> None:
    """Add what this run took to what the rows of its layers have cost."""
    if not tally.n_computed:
        return
    cost = Cost(
        images=tally.n_computed,
        runs=1,
        seconds=round(time.monotonic() - tally.started_s, 3),
        **{name: round(getattr(tally.shares, name), 3) for name in COMPUTING},
    )
    for layer in prepared.plan.active:
        folder = layer.features.folder
        known = read_record(folder, Cost)
        write_record(folder, known + cost if known else cost)


def _compute(
    options: ExtractOptions, prepared: Preparation, index: Index, tally: Tally, *, quiet: bool
) -> None:
    """Compute what is missing: in this process, or on a cluster."""
    if options.run.scheduler:
        from permafrost.pipeline.cluster.coordinate import compute_on_cluster

        compute_on_cluster(options, prepared, index, tally, quiet=quiet)
        return
    from permafrost.pipeline.computing.compute import compute_missing

    compute_missing(options, prepared, index, tally, quiet=quiet)
    if tally.n_computed:
        remember_rate(index, prepared.plan.keys, tally.n_computed / tally.shares.working)
