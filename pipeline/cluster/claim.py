"""What a worker does: it computes the rows of a claim, and says in few bytes what came of it."""

from __future__ import annotations

import gc
import importlib.metadata
import threading
import traceback
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from distributed import get_worker

from permafrost.cache.errors import CacheError
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import find_cache
from permafrost.cores import limit_cores
from permafrost.pipeline.cluster.rows import PlanRows
from permafrost.pipeline.computing.claims import Others
from permafrost.pipeline.computing.compute import compute_missing
from permafrost.pipeline.computing.tally import COMPUTING, Tally
from permafrost.pipeline.errors import BUG_STATUS, PipelineError
from permafrost.pipeline.forward.program import forget_program
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.prepare import Preparation, open_sets, prepare_rows
from permafrost.refusals import PASSING, find_errno, raise_refusal
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.decoding.decode import describe_decoder
from permafrost.stages.errors import StageError
from permafrost.stages.sources.remote import is_url
from permafrost.stages.sources.sharded.pattern import find_base, is_pattern
from permafrost.stages.sources.source import Reader

# Other versions of these may give other numbers.
_PACKAGES = ("permafrost", "keras", "numpy", "openvino", "tensorflow")
# So that a record stays below a kilobyte: reasons that are told, and letters of each.
_MOST_REASONS = 4
_LONGEST_REASON = 100
_LONGEST_ERROR = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all claims of a run have in common; it travels with each of them.

    Attributes
    ----------
    token : str
        Of this run alone.
    options : ExtractOptions
        With absolute paths: workers run in other folders.
    source : Reader
    root : str
        Where the images lie.
    rows_folder : Path
        What `write_rows` wrote.
    n_rows : int
    keys, active : tuple of str
        Feature sets of all layers, and of those that the run adds to.
    software : mapping of str to str
        See `describe_software`.
    """

    token: str
    options: ExtractOptions
    source: Reader
    root: str
    rows_folder: Path
    n_rows: int
    keys: tuple[str, ...]
    active: tuple[str, ...]
    software: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRecord:
    """What came of a claim, in less than a kilobyte.

    Attributes
    ----------
    worker : str
    refused : str
        Why this worker can compute no claim of the job.
    error, exit_status : str and int
        What stops the whole run, and the exit status that says so.
    n_computed, n_rotated, bytes_written : int
        As in `ExtractSummary`.
    n_left : int
        Rows that another run holds.
    seconds : tuple of float
        Of each of `COMPUTING`.
    failed : bytes
        A compressed mask of the rows without features, one bit each.
    reasons : tuple of str
        Why: one for each of the first of them. The others have the last one.
    """

    worker: str
    refused: str = ""
    error: str = ""
    exit_status: int = 0
    n_computed: int = 0
    n_rotated: int = 0
    bytes_written: int = 0
    n_left: int = 0
    seconds: tuple[float, ...] = (0.0,) * len(COMPUTING)
    failed: bytes = b""
    reasons: tuple[str, ...] = ()

    def list_failed(self, n_rows: int) -> dict[int, str]:
        """Return the number in the claim, and the reason, of each row without features."""
        if not self.failed:
            return {}
        mask = np.unpackbits(np.frombuffer(zlib.decompress(self.failed), np.uint8))[:n_rows]
        rows = np.flatnonzero(mask).tolist()
        reasons = [*self.reasons, *self.reasons[-1:] * (len(rows) - len(self.reasons))]
        return dict(zip(rows, reasons, strict=True))


def pack_mask(is_failed: Sequence[bool]) -> bytes:
    """Pack a mask of rows as `ClaimRecord.failed` has it; ``b""`` where none failed."""
    return zlib.compress(np.packbits(is_failed).tobytes()) if any(is_failed) else b""


def describe_software() -> dict[str, str]:
    """Return what must be the same on all workers, as the numbers depend on it."""
    versions = {"images": describe_decoder()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return versions


def run_claim(job: Job, start: int, stop: int, others: Others) -> ClaimRecord:
    """Compute what is missing of some rows of a job; Dask runs this on a worker.

    Raises
    ------
    OSError
        What may pass: Dask has the claim run again.
    """
    try:
        with _one_at_a_time:
            return _run_claim(job, start, stop, others)
    finally:
        _close_what_is_over()


def _run_claim(job: Job, start: int, stop: int, others: Others) -> ClaimRecord:
    worker = get_worker()
    if job.token not in _opened:
        limit_cores(worker.state.nthreads)
        try:
            opened = _OpenJob(job)
        except (StageError, CacheError, PipelineError, OSError) as error:
            if find_errno(error) in PASSING:
                raise
            return ClaimRecord(worker=worker.address, refused=str(error))
        _close_all()
        _opened[job.token] = opened
    try:
        return _opened[job.token].compute(start, stop, others, worker=worker.address)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - not every one of them can travel
        status = getattr(error, "exit_status", BUG_STATUS)
        if status == BUG_STATUS:
            raise_refusal(error, None)
        text = str(error) if status != BUG_STATUS else traceback.format_exc()[-_LONGEST_ERROR:]
        return ClaimRecord(worker=worker.address, error=text, exit_status=status)


def close_job(token: str) -> None:
    """Close what this process keeps open of a job: now, or once the claim is done that is going on.

    Dask runs this where a worker answers the scheduler, which must not wait.
    """
    _over.add(token)
    _close_what_is_over()


def _close_what_is_over() -> None:
    # Where it is not free, whoever has it calls this in the end.
    if _one_at_a_time.acquire(blocking=False):
        try:
            while _over:
                if _over.pop() in _opened:
                    _close_all()
        finally:
            _one_at_a_time.release()


def _close_all() -> None:
    while _opened:
        _opened.popitem()[1].close()
    forget_program()
    gc.collect()  # Networks are cycles, and may hold a gigabyte.


class _OpenJob:
    """A job as one worker process sees it: its files, its backbone, its feature sets."""

    def __init__(self, job: Job) -> None:
        self._job = job
        ours = describe_software()
        for name, version in job.software.items():
            if ours.get(name) != version:
                raise PipelineError(
                    f"{name} is {ours.get(name)} there and {version} here; install the same"
                )
        place = find_base(job.root) if is_pattern(job.root) else job.root
        if not is_url(job.root) and not Path(place).exists():
            raise PipelineError(f"the images at {job.root!r} cannot be seen there")
        options = job.options
        layout = find_cache(options.cache)
        self._rows = PlanRows.open(job.rows_folder)
        self._index = Index(layout.index_file)
        self._backbone = Backbone(options.features, self._index)
        self._sets = open_sets(options, self._backbone, layout, self._index)
        keys = tuple(features.key for *_, features in self._sets.layers)
        if keys != job.keys:
            raise PipelineError(
                f"{options.features.backbone} gives other numbers there: its files or Keras'"
                " settings differ"
            )

    def compute(self, start: int, stop: int, others: Others, *, worker: str) -> ClaimRecord:
        """Compute what is missing of rows `start` to `stop`."""
        images = self._list_images(start, stop)
        prepared = self._prepare(images)
        if not prepared.plan.digests:
            # All of them were there; else whoever computes looks at what lies in the folders.
            for *_, features in self._sets.layers:
                features.refresh()
            prepared = self._prepare(images)
        tally, n_left = Tally(), 0
        if prepared.plan.digests:
            n_left = compute_missing(
                *(self._job.options, prepared, self._index, tally), quiet=True, others=others
            )
        return _record(tally, images.manifest.digests, worker=worker, n_left=n_left)

    def close(self) -> None:
        """Close the index."""
        self._index.__exit__()

    def _prepare(self, images: Dataset) -> Preparation:
        job = self._job
        return prepare_rows(
            *(job.options, self._backbone, self._sets, images, self._index),
            active=job.active,
            n_rows=job.n_rows,
        )

    def _list_images(self, start: int, stop: int) -> Dataset:
        paths, digests = self._rows.pick(start, stop)
        none = [""] * len(paths)
        manifest = Manifest(
            root=self._job.root, paths=paths, labels=none, splits=none, digests=digests
        )
        return Dataset(manifest=manifest, source=self._job.source, unreadable={})


def _record(tally: Tally, digests: Digests, *, worker: str, n_left: int) -> ClaimRecord:
    is_failed = [digest in tally.failed for digest in digests] if tally.failed else []
    reasons = [tally.failed[digest] for digest in digests if digest in tally.failed]
    return ClaimRecord(
        worker=worker,
        n_computed=tally.n_computed,
        n_rotated=tally.n_rotated,
        bytes_written=tally.bytes_written,
        n_left=n_left,
        seconds=tuple(getattr(tally.shares, name) for name in COMPUTING),
        failed=pack_mask(is_failed),
        reasons=tuple(reason[:_LONGEST_REASON] for reason in reasons[:_MOST_REASONS]),
    )


# A worker may have several threads; a program uses all cores of one claim.
_one_at_a_time = threading.Lock()
# The job that this process works for, by its token.
_opened: dict[str, _OpenJob] = {}
# Jobs that came to their end since this process last looked.
_over: set[str] = set()
