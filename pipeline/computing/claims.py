"""Which rows a run computes next, so that runs on one cache do not compute the same ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.shards import format as shard_format
from permafrost.cache.store.leases import Leases, OtherRuns
from permafrost.pipeline.computing.writer import ActivationWriter
from permafrost.pipeline.forward.batch import BatchTask, split_batches
from permafrost.pipeline.planning.missing import ExtractionPlan

Rows = NDArray[np.int64]
# Rows that other runs hold are waited for; or left, so that somebody asks again later; or computed
# all the same. Only who waits takes its rows piece by piece.
Others = Literal["wait", "leave", "ignore"]

# Seconds of work in one claim. For so long, beside the batches in flight, other runs wait at most;
# so much is computed twice where runs cannot see each other's claims.
CLAIM_S = 15.0
# Batches in the first claim, which only fills the loader; doubled until a claim lasts `CLAIM_S`.
_FIRST_BATCHES = 4
POLL_S = 0.5
# Rows held by a run that lives but has stored none of them for so long are computed here all the
# same: a run that works stores rows every minute.
PATIENCE_S = 600.0
# Rows that are looked up in the cache together.
_WINDOW = 4096


class Claims:
    """Takes a plan's rows in order, some seconds of work at a time, but for those that others hold.

    Rows that others hold come last: by then they are in the cache, or free because the other run
    died or could not read them. A run that is alone takes all rows in order and in whole batches,
    so that the same images are in the same batches whether it is killed and resumed or not. Once
    its lease has lapsed, it leaves to others what they took of its rows, and takes the rest again.

    Parameters
    ----------
    plan : ExtractionPlan
        Rows that other runs add meanwhile are struck from what its layers are missing.
    leases, batch_size : Leases and int
    writer : ActivationWriter
        Gets the batches, in order.
    find_failures : callable
        Returns digest → reason of the images that are known by now to be undecodable.
    others : str
        What to do about the rows that other runs hold, see `Others`.

    Attributes
    ----------
    failed : dict of bytes to str
        Images of the plan that another run could not decode: digest → reason.
    waited_s, n_left : float and int
        Seconds spent waiting for other runs, and rows that were left to them.
    """

    def __init__(  # noqa: PLR0913
        self,
        plan: ExtractionPlan,
        leases: Leases,
        writer: ActivationWriter,
        *,
        batch_size: int,
        find_failures: Callable[[], Mapping[bytes, str]],
        others: Others = "wait",
    ) -> None:
        self._plan = plan
        self._leases = leases
        self._writer = writer
        self._batch_size = batch_size
        self._find_failures = find_failures
        self._others = others
        row_bytes = max((layer.row.row_bytes for layer in plan.active), default=1)
        self._most_batches = max(1, shard_format.SHARD_BYTES // (row_bytes * batch_size))
        self._n_batches = _FIRST_BATCHES
        self._ahead: Rows = np.arange(len(plan.digests))
        self._held: list[Rows] = []
        self._is_given_up = np.zeros(len(plan.digests), bool)
        self._taken: Rows = self._ahead[:0]
        self._n_done = 0
        self._n_waited_for = 0
        self._changed_s = 0.0
        self.failed: dict[bytes, str] = {}
        self.waited_s = 0.0
        self.n_left = 0

    def describe(self) -> str:
        """Say that another run is waited for; nothing otherwise."""
        return "waiting for another run" if self._n_waited_for else ""

    def rounds(self, advance: Callable[[int], None]) -> Iterator[Iterator[BatchTask]]:
        """Go through the rows until none is left, and yield the batches of each pass.

        Hand all batches of a pass to the writer before asking for the next pass, which may wait for
        another run: that run may be waiting for these rows.

        Parameters
        ----------
        advance : callable
            Is told how many rows need not be computed any more.
        """
        while len(self._ahead):
            rows = self._claim(advance)
            if len(rows):
                self._n_waited_for = 0
                yield self._cut(rows, advance)
                self._writer.flush()
            elif self._held and self._others != "wait":
                self.n_left = sum(map(len, self._held))
                return
            elif self._held:
                self._wait(advance)
            self._ahead = self._drop_failed(self._list_left(advance), advance)

    def _cut(self, rows: Rows, advance: Callable[[int], None]) -> Iterator[BatchTask]:
        plan = self._plan
        while len(rows):
            started_s = time.monotonic()
            for task in split_batches(plan.paths, plan.digests, rows, batch_size=self._batch_size):
                yield task
                rows = rows[len(task.rows) :]
                if self._leases.have_lapsed:
                    break
            self._adapt(time.monotonic() - started_s)
            self._ahead = np.concatenate([rows, self._ahead])
            self._taken = self._taken[: len(self._taken) - len(rows)]
            rows = self._claim(advance)

    def _list_left(self, advance: Callable[[int], None]) -> Rows:
        """List the rows that others hold, or took while this run's lease had lapsed."""
        given_up = self._writer.given_up
        advance(-sum(map(len, given_up)))
        left = np.unique(np.concatenate([self._ahead[:0], *self._held, *given_up]))
        self._held, self._writer.given_up = [], []
        return left

    def _adapt(self, lasted_s: float) -> None:
        if lasted_s < CLAIM_S:
            self._n_batches = min(2 * self._n_batches, self._most_batches)
        elif lasted_s > 2 * CLAIM_S:
            self._n_batches = max(1, self._n_batches // 2)

    def _claim(self, advance: Callable[[int], None]) -> Rows:
        """Take the next rows that are free."""
        has_lapsed = self._leases.have_lapsed
        if has_lapsed:
            # Before there is a new lease, for then the writer looks before it publishes.
            self._writer.flush()
        n_new = self._writer.n_committed - self._n_done
        self._n_done += n_new
        self._taken = self._taken[n_new:]
        with self._leases.choosing() as others:
            if others.are_waiting and len(self._taken):
                self._writer.commit()
            if has_lapsed or len(self._ahead):
                for layer in self._plan.active:
                    layer.features.refresh()
            if has_lapsed:
                self._give_up(others.held, advance)
            rows = self._choose(others, advance)
            self._taken = np.concatenate([self._taken, rows])
            ours = self._taken[~self._is_given_up[self._taken]]
            self._leases.hold(self._list(ours), waiting=bool(self._held) and not len(rows))
        return rows

    def _give_up(self, held: Set[bytes], advance: Callable[[int], None]) -> None:
        """Leave to others what they took of the rows that are on their way to the writer."""
        is_missing, is_held = self._look_up(self._taken, held)
        lost = self._taken[is_missing & is_held]
        for layer in self._plan.active:
            layer.missing[lost] = False  # so that the writer leaves them out
        self._is_given_up[lost] = True
        self._held.append(lost)
        advance(-len(lost))

    def _choose(self, others: OtherRuns, advance: Callable[[int], None]) -> Rows:
        is_impatient = self._n_waited_for and self.waited_s - self._changed_s > PATIENCE_S
        is_impatient = is_impatient or self._others == "ignore"
        held: Set[bytes] = frozenset() if is_impatient else others.held
        chosen = self._ahead[:0]
        n_wanted = self._count_wanted(others.n_runs)
        while len(self._ahead) and len(chosen) < n_wanted:
            window = self._ahead[:_WINDOW]
            is_missing, is_held = self._look_up(window, held)
            free = np.flatnonzero(is_missing & ~is_held)[: n_wanted - len(chosen)]
            chosen = np.concatenate([chosen, window[free]])
            stop = int(free[-1]) + 1 if len(chosen) == n_wanted else len(window)
            self._ahead = self._ahead[stop:]
            if (is_missing & is_held)[:stop].any():
                self._held.append(window[:stop][(is_missing & is_held)[:stop]])
            n_there = stop - int(is_missing[:stop].sum())
            if n_there:
                advance(n_there)
        self._is_given_up[chosen] = False
        return chosen

    def _count_wanted(self, n_others: int) -> int:
        if self._others != "wait":
            return len(self._ahead)
        n_batches = self._n_batches
        if n_others:
            # Smaller towards the end, so that all end together.
            n_left = len(self._ahead) / self._batch_size
            n_batches = min(n_batches, math.ceil(n_left / (2 * (n_others + 1))))
        return n_batches * self._batch_size

    def _look_up(self, rows: Rows, held: Set[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which of the rows are missing from a layer, and which are held by others."""
        digests = self._list(rows)
        is_missing = np.zeros(len(rows), bool)
        for layer in self._plan.active:
            layer.missing[rows] |= self._is_given_up[rows]
            layer.missing[rows] &= layer.features.locate(digests).missing
            is_missing |= layer.missing[rows]
        return is_missing, np.array([digest in held for digest in digests], bool)

    def _wait(self, advance: Callable[[int], None]) -> None:
        n_held = sum(map(len, self._held))
        if n_held != self._n_waited_for:
            self._n_waited_for = n_held
            self._changed_s = self.waited_s  # by no clock: this process may have been stopped
        advance(0)
        time.sleep(POLL_S)
        self.waited_s += POLL_S

    def _drop_failed(self, rows: Rows, advance: Callable[[int], None]) -> Rows:
        """Drop the rows of images that another run could not decode."""
        known = self._find_failures() if len(rows) else {}
        digests = self._list(rows)
        failed = {digest: known[digest] for digest in digests if digest in known}
        if not failed:
            return rows
        self.failed.update(failed)
        advance(len(failed))
        return rows[[digest not in failed for digest in digests]]

    def _list(self, rows: Rows) -> list[bytes]:
        return [self._plan.digests[row] for row in rows]
