"""Dask decodes batches of images ahead of the backbone, in threads of this process."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch, load_batch

if TYPE_CHECKING:
    from permafrost.pipeline.planning.prepare import Preparation

# Of the memory budget, the share of decoded images that wait for the backbone.
_AHEAD_SHARE = 0.25

Load = Callable[[BatchTask], LoadedBatch]


class Loaders(Protocol):
    """Who loads batches."""

    def submit(self, load: Load, task: BatchTask) -> Callable[[], LoadedBatch]:
        """Have a batch loaded; return what waits for it, and forgets it."""


class LoaderThreads:
    """Threads of this process, which Dask's threaded scheduler keeps busy.

    Threads are enough: Pillow releases the interpreter lock while it decodes and resizes. Dask
    returns from a graph when all of it is computed; so each batch is a graph, for which a thread
    that has nothing else to do waits.
    """

    def __init__(self, n_workers: int) -> None:
        self._workers = ThreadPoolExecutor(n_workers, "loader")
        self._waiting = ThreadPoolExecutor(_count_ahead(n_workers), "batch")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the batches that no thread has begun, and wait for the others."""
        self._waiting.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)

    def submit(self, load: Load, task: BatchTask) -> Callable[[], LoadedBatch]:
        """Have a batch loaded; return what waits for it, and forgets it."""
        from dask.threaded import get

        # Dask would look for other tasks of the graph in what a function is given.
        graph = {"batch": (partial(load, task),)}
        return self._waiting.submit(get, graph, "batch", pool=self._workers).result


def load_ahead(
    loaders: Loaders, prepared: Preparation, tasks: Iterator[BatchTask], *, n_workers: int
) -> Iterator[LoadedBatch]:
    """Yield batches of a plan in order, and load as many ahead as the memory budget allows.

    The first are being loaded when this returns.
    """
    spec, fitting = prepared.decode, prepared.fitting
    load = partial(load_batch, prepared.dataset.source, spec=spec, isolation=prepared.isolation)
    batch_bytes = fitting.batch_size * spec.height * spec.width * spec.channels
    submitted = (loaders.submit(load, task) for task in tasks)
    n_ahead = choose_ahead(batch_bytes, fitting.memory_bytes, n_workers=n_workers)
    return _take_in_order(deque(itertools.islice(submitted, n_ahead)), submitted)


def _take_in_order(
    window: deque[Callable[[], LoadedBatch]], submitted: Iterator[Callable[[], LoadedBatch]]
) -> Iterator[LoadedBatch]:
    while window:
        batch = window.popleft()()
        # Nothing else holds the batch by now.
        window.extend(itertools.islice(submitted, 1))
        yield batch


def choose_ahead(batch_bytes: int, memory_bytes: int, *, n_workers: int) -> int:
    """Choose how many batches load ahead: two a worker, within the memory budget."""
    fitting = int(memory_bytes * _AHEAD_SHARE) // max(1, batch_bytes)
    return max(2, min(_count_ahead(n_workers), fitting))


def _count_ahead(n_workers: int) -> int:
    return 2 * n_workers + 1
