"""A plan computed on a cluster: claims are given to its workers until no row is missing."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from permafrost.cache.disk.publish import temporary_folder
from permafrost.cache.shards import format as shard_format
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.pipeline.cluster.claim import ClaimRecord, Job, describe_software
from permafrost.pipeline.cluster.connect import connect
from permafrost.pipeline.cluster.dispatch import Dispatcher
from permafrost.pipeline.cluster.queue import Claim, ClaimQueue
from permafrost.pipeline.cluster.rows import write_rows
from permafrost.pipeline.computing.tally import COMPUTING, Tally, stop_on_failure
from permafrost.pipeline.options import ExtractOptions, FeatureOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.planning.remembered import recall_failures, remember_rate
from permafrost.pipeline.progress import Shares, show_progress
from permafrost.stages.sources.remote import is_url

# How often rows that are still missing in the end are given again.
_ROUNDS = 3


def compute_on_cluster(
    options: ExtractOptions, prepared: Preparation, index: Index, tally: Tally, *, quiet: bool
) -> None:
    """Compute what is missing on the workers of a cluster.

    Workers publish shards in the cache as any run does, so they share it with any other run. Only
    the numbers of rows go out, and less than a kilobyte comes back for each claim.

    Parameters
    ----------
    options : ExtractOptions
    prepared : Preparation
    index : Index
    tally : Tally
        Is told what happened.
    quiet : bool
        Whether to show no progress.

    Raises
    ------
    PipelineError
        No scheduler answers; none of the workers can compute the numbers that this run would.
    UnavailableError
        The cluster was lost, or has had no workers for a while.
    """
    plan = prepared.plan
    for layer in plan.active:
        open_feature_set_folder(prepared.layout, layer.recipe)
    with ExitStack() as stack:
        client = stack.enter_context(connect(str(options.run.scheduler)))
        folder = stack.enter_context(temporary_folder(prepared.layout.leases_folder))
        write_rows(folder, digests=plan.digests, paths=plan.paths)
        job = _describe_job(options, prepared, folder)
        dispatcher = stack.enter_context(Dispatcher(client, job))
        progress = show_progress(
            len(plan.digests), unit="images", note=dispatcher.describe, quiet=quiet
        )
        advance = stack.enter_context(progress)
        missing = [Claim(start=0, stop=len(plan.digests))]
        for _ in range(_ROUNDS):
            claims = _open_queue(prepared, missing)
            for claim, record in dispatcher.work_off(claims):
                _note(claim, record, prepared, tally)
                os.utime(folder)  # or other hosts would clear it away after a day
                advance(0 if record.n_left else len(claim))
            if claims.rate:
                remember_rate(index, plan.keys, claims.rate, on_workers=True)
            missing = _find_missing(prepared, index, tally)
            if not missing:
                break
            advance(-sum(map(len, missing)))
    for claim in missing:
        reason = "no worker of the cluster stored its features"
        tally.failed |= dict.fromkeys(plan.digests[claim.start : claim.stop], reason)
    _share_out(tally.shares, dispatcher.n_most)
    stop_on_failure(options, prepared, tally)


def _describe_job(options: ExtractOptions, prepared: Preparation, folder: Path) -> Job:
    features = FeatureOptions.from_json(options.features.to_json())  # with absolute paths
    return Job(
        token=uuid.uuid4().hex[:12],
        options=replace(
            options,
            features=features,
            cache=options.cache.absolute(),
            run=replace(options.run, scheduler=None),
        ),
        source=prepared.dataset.source,
        root=_make_absolute(prepared.dataset.manifest.root),
        rows_folder=folder.absolute(),
        n_rows=len(prepared.plan.digests),
        keys=tuple(prepared.plan.keys),
        active=tuple(prepared.plan.active_keys),
        software=describe_software(),
    )


def _make_absolute(root: str) -> str:
    return root if is_url(root) else os.path.join(os.getcwd(), root)  # noqa: PTH109, PTH118


def _open_queue(prepared: Preparation, runs: Sequence[Claim]) -> ClaimQueue:
    """Cut runs of rows into claims."""
    batch_size = prepared.fitting.batch_size
    row_bytes = max((layer.row.row_bytes for layer in prepared.plan.active), default=1)
    most_batches = max(1, shard_format.SHARD_BYTES // (row_bytes * batch_size))
    return ClaimQueue(runs, batch_size=batch_size, most_batches=most_batches)


def _note(claim: Claim, record: ClaimRecord, prepared: Preparation, tally: Tally) -> None:
    """Take what came of a claim into account."""
    tally.n_computed += record.n_computed
    tally.n_rotated += record.n_rotated
    tally.bytes_written += record.bytes_written
    for name, seconds in zip(COMPUTING, record.seconds, strict=True):
        setattr(tally.shares, name, getattr(tally.shares, name) + seconds)
    for row, reason in record.list_failed(len(claim)).items():
        tally.failed[prepared.plan.digests[claim.start + row]] = reason


def _find_missing(prepared: Preparation, index: Index, tally: Tally) -> list[Claim]:
    """Return claims of the rows that are neither in the cache nor known to have no features."""
    plan = prepared.plan
    missing = np.zeros(len(plan.digests), bool)
    for layer in plan.active:
        layer.features.refresh()
        missing |= layer.missing & layer.features.locate(plan.digests).missing
    known = recall_failures(index, prepared.decoding, plan.active_keys)
    for row in np.flatnonzero(missing).tolist():
        digest = plan.digests[row]
        if digest in known:
            tally.failed[digest] = known[digest]  # the whole reason
        missing[row] = digest not in tally.failed
    rows = np.flatnonzero(missing)
    return [
        Claim(start=int(run[0]), stop=int(run[-1]) + 1)
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        if len(run)
    ]


def _share_out(shares: Shares, n_workers: int) -> None:
    """Turn seconds that workers spent side by side into seconds of the run."""
    for name in COMPUTING:
        setattr(shares, name, getattr(shares, name) / max(1, n_workers))
