"""The backbone runs in a thread of its own, while other batches are fetched and written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from permafrost.pipeline.forward.batch import LoadedBatch
from permafrost.pipeline.forward.program import PlanProgram
from permafrost.pipeline.progress import Shares


class ForwardPass:
    """Runs batches through a program, one ahead of what is asked for.

    Otherwise the backbone would stand still while the next batch is fetched and the last one is
    handed to the writer.

    Parameters
    ----------
    build : callable
        Builds the program; called at the first batch, and not before, so that the next ones decode
        meanwhile.
    shares : Shares
        Is told how long this waited for what.
    start : callable, optional
        Imports what building takes in any case, while the first batch is decoded.
    """

    def __init__(
        self,
        build: Callable[[], PlanProgram],
        shares: Shares,
        *,
        start: Callable[[], None] = lambda: None,
    ) -> None:
        self._build = build
        self._shares = shares
        self._import = start
        self._program: PlanProgram | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[tuple[LoadedBatch, Future[list[np.ndarray]] | None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the batches that wait for the backbone."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, batches: Iterable[LoadedBatch]) -> Iterator[tuple[LoadedBatch, list[np.ndarray]]]:
        """Yield each batch with the activations of its layers, in order.

        Yields
        ------
        LoadedBatch
        list of ndarray, each (n, *shape)
            Empty where no image of the batch could be read.
        """
        started_s = time.monotonic()
        self._import()
        clock_s = time.monotonic()
        self._shares.building += clock_s - started_s
        for batch in batches:
            self._shares.loading += time.monotonic() - clock_s
            self._start(batch)
            if len(self._running) > (self._program.n_at_once if self._program else 0):
                yield self._take()
            clock_s = time.monotonic()
        while self._running:
            yield self._take()

    def run_once(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Run some images beside the batches, once there is a program."""
        assert self._pool is not None
        assert self._program is not None
        return self._pool.submit(self._program, pixels).result()

    def _start(self, batch: LoadedBatch) -> None:
        if not batch.readable.any():
            self._running.append((batch, None))
            return
        if self._program is None:
            started_s = time.monotonic()
            self._program = self._build()
            self._pool = ThreadPoolExecutor(self._program.n_at_once, "backbone")
            self._shares.building += time.monotonic() - started_s
        assert self._pool is not None
        self._running.append((batch, self._pool.submit(self._program, batch.pixels, batch.rows)))

    def _take(self) -> tuple[LoadedBatch, list[np.ndarray]]:
        batch, future = self._running.popleft()
        started_s = time.monotonic()
        activations = future.result() if future else []
        self._shares.backbone += time.monotonic() - started_s
        return batch, activations
