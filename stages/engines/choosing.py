"""The fastest of several ways to compute the same, found by timing them on the work itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from permafrost.stages.engines.program import Program, Verdict
from permafrost.stages.shortcuts.choice import TOLERANCE
from permafrost.stages.shortcuts.differences import measure_errors

# Batches that each way is timed on, after the one on which it compiles; the fastest counts, since
# other threads decode meanwhile.
_TIMED_BATCHES = 2
# A way is tried if what is left takes so many times as long as building and compiling one: the
# best gain is half of the time, and some ways gain nothing.
_WORTH = 4.0
# Of a batch, the images that tell whether the numbers of a way are close enough.
_CHECKED_IMAGES = 8
# Another way than the first must be faster by this factor: less is noise.
_FASTER = 1.03


class ChoosingProgram:
    """Runs a work's first batches in one way after the other, and the rest in the fastest.

    Each batch's outputs are those of the way whose turn it is; so nothing is run for the timing
    alone, but for a few images that tell whether the numbers of a way are close enough.

    Parameters
    ----------
    build : callable
        Builds the program of a way.
    ways : sequence of str
        In the order in which they are tried. The first is what little work is done with.
    batch_size, n_images : int
        Of the work. Batches of another size, as samples, run in the way that is the best so far.
    is_checked : bool
        Whether a way may serve only if its outputs are within `TOLERANCE` of those of the first.
    note : callable
        Is told the verdict, once there is one.
    clock : callable
        Returns seconds.
    """

    def __init__(  # noqa: PLR0913
        self,
        build: Callable[[str], Program],
        ways: Sequence[str],
        *,
        batch_size: int,
        n_images: int,
        is_checked: bool,
        note: Callable[[Verdict], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._build = build
        self._first = self._best = ways[0]
        self._batch_size = batch_size
        self._n_left = n_images
        self._is_checked = is_checked
        self._note = note
        self._clock = clock
        self._open: dict[str, Program] = {}
        self._rates: dict[str, float] = {}
        self._cost_s = 0.0  # of building the last one, and of its first batch
        self._steps: Iterator[Callable[[np.ndarray], list[np.ndarray]]] | None = self._plan(ways)
        # Several devices may call at once; while ways are timed, they wait for each other.
        self._lock = threading.Lock()
        self._open_way(self._first)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, see `stages.engines.program.Program`."""
        if self._steps is not None:
            with self._lock:
                return self._run_timed(batch)
        return self._open[self._best](batch)

    def close(self) -> None:
        """Release the device memory."""
        for program in self._open.values():
            program.close()

    def _run_timed(self, batch: np.ndarray) -> list[np.ndarray]:
        step = None
        if self._steps is not None and len(batch) == self._batch_size:
            self._n_left -= len(batch)
            step = next(self._steps, None)
            if step is None:
                self._settle()
        if step is None:
            return self._open_way(self._best)(batch)
        try:
            return step(batch)
        except Exception:
            # As a rule the memory is short: no time for experiments.
            self._settle()
            raise

    def _plan(self, ways: Sequence[str]) -> Iterator[Callable[[np.ndarray], list[np.ndarray]]]:
        """Yield what is done with each batch, until the fastest way is known."""
        for way in ways:
            yield partial(self._compile, way)
            if way in self._open:
                for _ in range(_TIMED_BATCHES):
                    yield partial(self._time, way)
                self._compare(way)
            # The first batch had to be run in any case.
            rate = self._rates[self._best]
            if self._n_left / rate < _WORTH * (self._cost_s - self._batch_size / rate):
                break
        if len(self._rates) > 1 or len(ways) == 1:
            untried = tuple(way for way in ways if way not in self._rates)
            rates = dict(self._rates)
            self._note(Verdict(way=self._best, images_per_second=rates, untried=untried))

    def _compile(self, way: str, batch: np.ndarray) -> list[np.ndarray]:
        """Run the first batch of a way; where it is off, return the outputs of the first way."""
        program = self._open_way(way)
        started_s = self._clock()
        outputs = program(batch)
        self._cost_s += self._clock() - started_s
        if not self._is_checked or way == self._first:
            return outputs
        first, sample = self._open[self._first], batch[:_CHECKED_IMAGES]
        errors = measure_errors(lambda few: [each[: len(few)] for each in outputs], first, [sample])
        if max(largest for largest, _ in errors) <= TOLERANCE:
            return outputs
        self._rates[way] = 0.0
        self._open.pop(way).close()
        return first(batch)

    def _time(self, way: str, batch: np.ndarray) -> list[np.ndarray]:
        started_s = self._clock()
        outputs = self._open[way](batch)
        rate = len(batch) / max(1e-9, self._clock() - started_s)
        self._rates[way] = max(rate, self._rates.get(way, 0.0))
        return outputs

    def _compare(self, way: str) -> None:
        """Keep the faster one of this way and the best so far."""
        slower = way
        if way != self._best and self._rates[way] > _FASTER * self._rates[self._best]:
            slower, self._best = self._best, way
        # The first way is what all others are compared with.
        if slower != self._best and not (self._is_checked and slower == self._first):
            self._open.pop(slower).close()

    def _open_way(self, way: str) -> Program:
        if way not in self._open:
            started_s = self._clock()
            self._open[way] = self._build(way)
            self._cost_s = self._clock() - started_s
        return self._open[way]

    def _settle(self) -> None:
        """Stay with the best so far."""
        self._steps = None
        self._open_way(self._best)
        for way in set(self._open) - {self._best}:
            self._open.pop(way).close()
