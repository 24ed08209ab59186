"""Which rows of a plan the next claim has, and how many."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from permafrost.pipeline.computing.claims import Others

# Seconds of one worker's work in a claim: long against what giving it costs, short against what
# is lost with a worker.
CLAIM_S = 30.0
# Claims get smaller towards the end, but none is shorter: each becomes a shard.
_SHORTEST_S = 3.0
# Batches in a claim while nobody knows how fast the workers are.
_FIRST_BATCHES = 4
# The rate is the middle of that of so many claims.
_N_RATES = 15
# A claim is late after so many times the seconds that it should take, but not before the least:
# so long a worker may be stopped until its lease runs out.
_LATE = 4.0
_LEAST_LATE_S = 90.0
# Before there is a rate: a worker imports TensorFlow and builds the network first.
_FIRST_LATE_S = 300.0
# Rows that another run holds are asked for again after so long, and computed here all the same
# when it lives but has stored none of them for longer.
_AGAIN_S = 5.0
_PATIENCE_S = 600.0


@dataclass(slots=True, kw_only=True, eq=False)
class Claim:
    """Some rows of a plan, from `start` to `stop`.

    Attributes
    ----------
    start, stop : int
    others : str
        See `Others`.
    not_before_s, left_since_s : float
        When to give it again, and since when another run holds rows of it; 0 where none does.
    """

    start: int
    stop: int
    others: Others = "leave"
    not_before_s: float = 0.0
    left_since_s: float = 0.0

    def __len__(self) -> int:
        return self.stop - self.start


class ClaimQueue:
    """Cuts runs of rows, in order, into claims of whole batches, of at most `most_batches` each."""

    def __init__(self, runs: Sequence[Claim], *, batch_size: int, most_batches: int) -> None:
        self._runs = deque(runs)
        self._batch_size = batch_size
        self._most_batches = most_batches
        self._n_left = sum(map(len, runs))
        self._back: deque[Claim] = deque()
        self._rates: deque[float] = deque(maxlen=_N_RATES)

    def __bool__(self) -> bool:
        """Whether rows are left."""
        return bool(self._runs) or bool(self._back)

    @property
    def rate(self) -> float | None:
        """Rows a second of one worker; None before any was measured."""
        return statistics.median(self._rates) if self._rates else None

    def note_rate(self, n_rows: int, seconds: float) -> None:
        """Learn how long a worker took for rows."""
        if n_rows and seconds > 0:
            self._rates.append(n_rows / seconds)

    def next(self, *, n_workers: int, now_s: float) -> Claim | None:
        """Take the next claim; None where none is due."""
        for claim in self._back:
            if claim.not_before_s <= now_s:
                self._back.remove(claim)
                return claim
        if not self._runs:
            return None
        run = self._runs[0]
        n_rows = self._count_batches(n_workers) * self._batch_size
        claim = Claim(start=run.start, stop=min(run.stop, run.start + n_rows))
        run.start = claim.stop
        if not run:
            self._runs.popleft()
        self._n_left -= len(claim)
        return claim

    def _count_batches(self, n_workers: int) -> int:
        # So that all workers end together.
        n_batches = math.ceil(self._n_left / (2 * n_workers * self._batch_size))
        if self.rate is None:
            return min(n_batches, self._most_batches, _FIRST_BATCHES)
        a_second = self.rate / self._batch_size
        n_batches = max(n_batches, math.ceil(a_second * _SHORTEST_S))
        return max(1, min(n_batches, self._most_batches, int(a_second * CLAIM_S)))

    def count_seconds(self, n_rows: int) -> float:
        """Return after how many seconds a claim that was just given is late."""
        if self.rate is None:
            return _FIRST_LATE_S
        return max(_LEAST_LATE_S, _LATE * n_rows / self.rate)

    def put_back(self, claim: Claim) -> None:
        """Have a claim given again, before all that have not been given yet."""
        self._back.appendleft(claim)

    def postpone(self, claim: Claim, *, now_s: float) -> None:
        """Have a claim of which another run holds rows given again, later."""
        claim.left_since_s = claim.left_since_s or now_s
        if now_s - claim.left_since_s > _PATIENCE_S:
            claim.others = "ignore"
        claim.not_before_s = now_s + _AGAIN_S
        self._back.append(claim)

    def halve(self, claim: Claim) -> bool:
        """Have both halves of a claim given; False where it has a single row."""
        if len(claim) < 2:
            return False
        n_batches = len(claim) // self._batch_size
        half = n_batches // 2 * self._batch_size if n_batches > 1 else len(claim) // 2
        middle = claim.start + half
        for start, stop in ((middle, claim.stop), (claim.start, middle)):
            self.put_back(Claim(start=start, stop=stop, others=claim.others))
        return True
