"""Dask decodes batches of images ahead of the backbone."""

from __future__ import annotations

import hashlib
import itertools
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from permafrost.pipeline.errors import PipelineError, StoppedError
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.planning.dataset import explain_os_error
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.isolation import Isolation, decode_isolated
from permafrost.stages.errors import DecoderError, ImageError
from permafrost.stages.sources.source import Reader, start_reading

if TYPE_CHECKING:
    from distributed import Client
    from permafrost.pipeline.planning.prepare import Preparation

# Why an image was not read whose bytes are not those that were hashed.
CHANGED = "changed while the run was going; run again"
# Of the memory budget, the share of decoded images that wait for the backbone.
_AHEAD_SHARE = 0.25
_CONNECT_TIMEOUT_S = 10
# Dask insists on HTTP servers: out of others' reach, at ports that two runs do not quarrel over.
_LOOPBACK = "127.0.0.1:0"
# Dask's own news: where its dashboard would be, that a worker left; what matters is raised.
_DASK_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.http.proxy",
    "distributed.scheduler",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTask:
    """What one Dask task loads; `rows` are the batch's rows in the plan, shape (n,)."""

    rows: NDArray[np.int64]
    paths: Sequence[str]
    digests: Sequence[bytes]


@dataclass(slots=True, kw_only=True)
class LoadedBatch:
    """A decoded batch.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Its rows in the plan.
    pixels : ndarray of uint8, shape (n, height, width, channels)
        An image that could not be read stays black; its activations are dropped. So every image
        has the same place in the same batch whichever of its neighbours fail.
    broken : dict of int to str
        Row in the batch → why its bytes cannot be decoded; true for as long as they are the same.
    unreadable : dict of int to str
        Row in the batch → why its bytes could not be had this time.
    n_rotated : int
        Images whose file asks to be shown turned.
    """

    rows: NDArray[np.int64]
    pixels: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    n_rotated: int = 0

    @property
    def readable(self) -> np.ndarray:
        """Mask of the images that were read: ndarray of bool, shape (n,)."""
        mask = np.ones(len(self.pixels), bool)
        mask[[*self.broken, *self.unreadable]] = False
        return mask


def load_batch(
    source: Reader, task: BatchTask, *, spec: DecodeSpec, isolation: Isolation | None
) -> LoadedBatch:
    """Read and decode one batch; runs on a Dask worker."""
    shape = (len(task.paths), spec.height, spec.width, spec.channels)
    batch = LoadedBatch(rows=task.rows, pixels=np.zeros(shape, np.uint8))
    reading = start_reading(source, task.paths)
    for row, (read, digest) in enumerate(zip(reading, task.digests, strict=True)):
        try:
            data = read()
            if hashlib.sha256(data).digest() != digest:
                # Decoding it would file one image's features under another's digest.
                batch.unreadable[row] = CHANGED
                continue
            decoded = (
                decode_isolated(data, spec, isolation) if isolation else decode_image(data, spec)
            )
        except OSError as error:
            batch.unreadable[row] = explain_os_error(error)
        except DecoderError as error:
            batch.unreadable[row] = str(error)
        except ImageError as error:
            batch.broken[row] = str(error)
        else:
            batch.pixels[row] = decoded.pixels
            batch.n_rotated += decoded.rotated
    return batch


def split_batches(
    paths: Sequence[str],
    digests: Sequence[bytes],
    rows: NDArray[np.int64],
    *,
    batch_size: int,
) -> Iterator[BatchTask]:
    """Cut some of the plan's rows into batches."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield BatchTask(
            rows=batch,
            paths=[paths[row] for row in batch],
            digests=[digests[row] for row in batch],
        )


@contextmanager
def open_client(options: RunOptions) -> Iterator[Client]:
    """Connect to the scheduler of the options, or start one with threads of this process.

    Threads are enough: Pillow releases the interpreter lock while it decodes and resizes.
    """
    from distributed import Client, LocalCluster

    for name in _DASK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # That its folder, of no use here, took a second to make: as it does where many runs start.
    warnings.filterwarnings("ignore", message="Creating scratch directories")
    if options.scheduler:
        with _connect(options.scheduler) as client:
            yield client
        return
    # Nothing is spilled: the loop bounds what is in memory.
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=options.workers,
            processes=False,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": _LOOPBACK},
            worker_dashboard_address=_LOOPBACK,
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connect(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with dask scheduler,"
            " or drop --scheduler"
        ) from error


def _wait(future: Any) -> LoadedBatch:
    from distributed import KilledWorker

    try:
        batch: LoadedBatch = future.result()
    except (CancelledError, KilledWorker) as error:
        raise StoppedError(
            f"the Dask cluster was lost ({type(error).__name__}); what was finished is kept: run"
            " again once it is back, or without --scheduler"
        ) from error
    return batch


class BatchLoader:
    """Keeps batches loading ahead of the one that is asked for.

    Parameters
    ----------
    client : distributed.Client
    load : callable
        Loads one batch; travels to the workers by pickle.
    tasks : iterator of BatchTask
    ahead : int
        Batches that are loading or loaded; bounds the memory.
    """

    def __init__(
        self,
        client: Client,
        load: Callable[[BatchTask], LoadedBatch],
        tasks: Iterator[BatchTask],
        *,
        ahead: int,
    ) -> None:
        self._submit = lambda task: client.submit(load, task, pure=False)
        self._tasks = tasks
        self._futures: deque[Any] = deque()
        for task in itertools.islice(tasks, ahead):
            self._futures.append(self._submit(task))

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches in the order of the tasks."""
        while self._futures:
            batch = _wait(self._futures.popleft())
            # The future is gone by now, and with it Dask's hold on the batch.
            for task in itertools.islice(self._tasks, 1):
                self._futures.append(self._submit(task))
            yield batch


def load_ahead(
    client: Client, prepared: Preparation, tasks: Iterator[BatchTask], run: RunOptions
) -> BatchLoader:
    """Start to load batches of a plan, as many ahead as the memory budget allows."""
    spec = prepared.decode
    load = partial(load_batch, prepared.dataset.source, spec=spec, isolation=prepared.isolation)
    batch_bytes = prepared.batch_size * spec.height * spec.width * spec.channels
    return BatchLoader(client, load, tasks, ahead=choose_ahead(batch_bytes, run))


def choose_ahead(batch_bytes: int, options: RunOptions) -> int:
    """Choose how many batches load ahead: two a worker, within the memory budget."""
    fitting = int(options.memory_bytes * _AHEAD_SHARE) // max(1, batch_bytes)
    return max(2, min(2 * options.workers + 1, fitting))
