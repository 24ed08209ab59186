"""Claims are given to a cluster's workers, looked after, and taken back."""

from __future__ import annotations

import logging
import operator
import pickle
import queue
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NoReturn, Self

from distributed import Client, KilledWorker, get_worker

from permafrost.pipeline.cluster.claim import ClaimRecord, Job, close_job, pack_mask, run_claim
from permafrost.pipeline.cluster.connect import RESOURCE, Worker, find_places, list_workers
from permafrost.pipeline.cluster.queue import Claim, ClaimQueue
from permafrost.pipeline.errors import (
    BUG_STATUS,
    PipelineError,
    StoppedError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

# Claims that a worker has: one is computed, the next is there when it ends.
_PER_WORKER = 2
# Copies of a claim, each given when the last one was late.
_MOST_COPIES = 5
# What passes on a worker is tried so often again.
_RETRIES = 2
_TICK_S = 1.0
# What passes between two ticks is counted up to this.
_MOST_TICK_S = 5.0
# How often the scheduler is asked for its workers, and claims are looked over.
_LOOK_S = 2.0
# For so long there may be no workers: a queueing system may be starting some.
_PATIENCE_S = 300.0
_WARN_EVERY_S = 60.0
# What a worker has finished is had in this time, unless the worker is gone by now.
_FETCH_S = 30.0
# So long workers are waited for in the end.
_CLOSE_S = 5.0
# What a worker evaluates: its record of a claim, or the address of one without this package. What
# Dask itself unpickles names nothing of the package: a worker that lacks it would end, and a
# scheduler that lacks it would refuse.
_TASK = "call(*loads(packed)) if find_spec('permafrost') else get_worker().address"
_NAMES = {
    "call": operator.call,
    "find_spec": find_spec,
    "get_worker": get_worker,
    "loads": pickle.loads,
}


@dataclass(slots=True, kw_only=True, eq=False)
class _Given:
    """A claim that workers have: one of them, or several once it is late.

    Attributes
    ----------
    claim : Claim
    late_s : float
        From when on it is late, and given to another worker as well.
    copies : dict of str to Future
        By the key of the task.
    """

    claim: Claim
    late_s: float
    copies: dict[str, Any] = field(default_factory=dict)


class Dispatcher:
    """Gives claims to the workers of a scheduler, and yields what came of them.

    Parameters
    ----------
    client : distributed.Client
    job : Job

    Attributes
    ----------
    n_most : int
        Workers that there were at most.
    """

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._job = job
        self._address = client.scheduler.address
        self._given: list[_Given] = []
        self._of_key: dict[str, _Given] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._wants_resource = False
        self._refusals: dict[str, str] = {}
        self._n_tasks = 0
        # Counted and not read from a clock: this process may have been stopped meanwhile.
        self._now_s = 0.0
        self._ticked_s = time.monotonic()
        self._looked_s = -_LOOK_S
        self._seen_s = self._warned_s = 0.0
        self.n_most = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Have workers close what they keep open of the job, as far as they answer."""
        if self._client.status == "running":
            live = [worker.address for worker in self._workers if not worker.is_silent]
            task = _pack(close_job, self._job.token)
            with suppress(OSError):
                self._client.run(*task, workers=live, on_error="ignore", callback_timeout=_CLOSE_S)

    def describe(self) -> str:
        """Say who works on what."""
        return f"{len(self._workers)} workers, {len(self._given)} claims given"

    def work_off(self, claims: ClaimQueue) -> Iterator[tuple[Claim, ClaimRecord]]:
        """Give all claims, and yield each with its record once it is done.

        Raises
        ------
        PipelineError
            All workers refuse; or what a worker says stops the run.
        UnavailableError
            The cluster was lost, or has no workers.
        """
        while claims or self._given:
            self._tick()
            if self._now_s - self._looked_s >= _LOOK_S:
                self._looked_s = self._now_s
                self._look_at_workers()
                self._look_at_claims(claims)
            self._give(claims)
            for future in self._wait():
                given = self._of_key.get(future.key)
                if given and (record := self._take(given, future, claims)):
                    yield given.claim, record

    def _wait(self) -> list[Any]:
        """Return the futures that are done by now; wait a little for one."""
        done = []
        try:
            done.append(self._done.get(timeout=_TICK_S))
            while True:
                done.append(self._done.get_nowait())
        except queue.Empty:
            pass
        return done

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._now_s += min(_MOST_TICK_S, now_s - self._ticked_s)
        self._ticked_s = now_s

    def _look_at_workers(self) -> None:
        known = list_workers(self._client)
        if self._client.status == "closed":
            self._stop_as_lost()
        # Who offers the resource says how much it can take; others of the cluster are for else,
        # even when all who offer it are gone.
        self._wants_resource |= any(worker.has_resource for worker in known or ())
        for_us = [one for one in known or () if one.has_resource or not self._wants_resource]
        self._workers = [one for one in for_us if one.address not in self._refusals]
        if for_us and not self._workers:
            address = for_us[0].address
            reason = self._refusals[address]
            raise PipelineError(f"no worker of the cluster can compute this; {address}: {reason}")
        self.n_most = max(self.n_most, len(self._workers))
        if any(not worker.is_silent for worker in self._workers):
            self._seen_s = self._warned_s = self._now_s
        elif self._now_s - self._seen_s > _PATIENCE_S:
            raise UnavailableError(
                f"the Dask cluster at {self._address!r} has had no workers for {_PATIENCE_S:.0f} s;"
                " what was finished is kept: run again once it has some, or without --scheduler"
            )
        elif self._now_s - self._warned_s > _WARN_EVERY_S:
            self._warned_s = self._now_s
            _log.warning(
                "waiting for the Dask cluster at %r, which has %d workers",
                *(self._address, len(self._workers)),
            )

    def _look_at_claims(self, claims: ClaimQueue) -> None:
        """Give claims that are late, or whose workers are silent, to other workers as well."""
        late = [given for given in self._given if given.late_s <= self._now_s]
        known = {worker.address for worker in self._workers}
        silent = {worker.address for worker in self._workers if worker.is_silent}
        if not late and not silent:
            return
        places = find_places(self._client)
        for given in self._given:
            having = {places[key] for key in given.copies if key in places}
            if given in late or (having and having <= silent < known):
                self._give_again(given, having, claims)

    def _give_again(self, given: _Given, having: Collection[str], claims: ClaimQueue) -> None:
        if len(given.copies) == _MOST_COPIES:
            raise UnavailableError(
                f"{len(given.claim)} images were given to workers {_MOST_COPIES} times, and no"
                " worker was ready in time; see to the workers, and run again"
            )
        given.claim.others = "ignore"
        self._submit(given, avoid=having)
        given.late_s = self._now_s + claims.count_seconds(len(given.claim))

    def _give(self, claims: ClaimQueue) -> None:
        n_live = sum(not worker.is_silent for worker in self._workers)
        while n_live and self._count_timely() < _PER_WORKER * n_live:
            claim = claims.next(n_workers=n_live, now_s=self._now_s)
            if claim is None:
                return
            late_s = self._now_s + claims.count_seconds(_PER_WORKER * len(claim))
            given = _Given(claim=claim, late_s=late_s)
            self._given.append(given)
            self._submit(given)

    def _count_timely(self) -> int:
        return sum(len(given.copies) == 1 for given in self._given)

    def _submit(self, given: _Given, *, avoid: Collection[str] = ()) -> None:
        claim = given.claim
        self._n_tasks += 1
        # Not again one that a scheduler may remember: the first of them may hang.
        key = f"permafrost-{self._job.token}-{claim.start}-{claim.stop}-{self._n_tasks}"
        good = [
            worker.address
            for worker in self._workers
            if not worker.is_silent and worker.address not in avoid
        ]
        is_bounded = bool(good) and (len(good) < len(self._workers) or bool(self._refusals))
        future = self._client.submit(
            *_pack(run_claim, self._job, claim.start, claim.stop, claim.others),
            key=key,
            retries=_RETRIES,
            resources={RESOURCE: 1} if self._wants_resource else None,
            workers=good if is_bounded else None,
            # The good ones may be gone before they begin.
            allow_other_workers=is_bounded,
        )
        given.copies[key] = future
        self._of_key[key] = given
        future.add_done_callback(self._done.put)

    def _take(self, given: _Given, future: Any, claims: ClaimQueue) -> ClaimRecord | None:
        """Take what became of one copy of a claim; None where the claim is given once more."""
        record = self._fetch(future)
        self._forget(given)
        if record is None:
            claims.put_back(given.claim)  # what was stored of it is found
        elif record is _KILLED:
            return None if claims.halve(given.claim) else _list_as_killing()
        elif record.refused:
            self._leave_out(record)
            claims.put_back(given.claim)
            return None
        elif record.error:
            raise _as_error(record)
        elif record.n_left:
            claims.postpone(given.claim, now_s=self._now_s)
        else:
            claims.note_rate(record.n_computed, sum(record.seconds[1:]))
        return record

    def _fetch(self, future: Any) -> ClaimRecord | None:
        """Return the record of a finished task; None where its worker is gone with it."""
        try:
            record: ClaimRecord | str = future.result(timeout=_FETCH_S)
        except KilledWorker:
            return _KILLED
        except TimeoutError:
            if future.status == "error":  # it is what a file system answered the worker
                raise
            return None
        except CancelledError:
            self._stop_as_lost()
        except ImportError as error:
            raise PipelineError(
                f"a worker of the cluster cannot import what it needs ({error}); install the same"
                " permafrost on all of them"
            ) from error
        if isinstance(record, str):
            return ClaimRecord(worker=record, refused="permafrost is not installed there")
        return record

    def _forget(self, given: _Given) -> None:
        self._given.remove(given)
        for key, copy in given.copies.items():
            del self._of_key[key]
            copy.cancel()

    def _leave_out(self, record: ClaimRecord) -> None:
        if record.worker not in self._refusals:
            self._refusals[record.worker] = record.refused
            _log.warning("worker %s is left out: %s", record.worker, record.refused)
        self._looked_s = -_LOOK_S  # now, before it is given another

    def _stop_as_lost(self) -> NoReturn:
        raise UnavailableError(
            f"the Dask cluster at {self._address!r} was lost; what was finished is kept: run again"
            " once it is back, or without --scheduler"
        )


def _pack(*call: object) -> tuple[Any, ...]:
    """Return what a worker is given to make a call: a function of this package, and arguments."""
    return eval, _TASK, {**_NAMES, "packed": pickle.dumps(call)}


# Stands for what Dask says of a task whose workers died, one after the other.
_KILLED = ClaimRecord(worker="")


def _list_as_killing() -> ClaimRecord:
    reasons = ("each worker that read it died",)
    return ClaimRecord(worker="", failed=pack_mask([True]), reasons=reasons)


def _as_error(record: ClaimRecord) -> Exception:
    if record.exit_status == BUG_STATUS:
        return RuntimeError(f"on worker {record.worker}:\n{record.error}")
    kinds = {kind.exit_status: kind for kind in (PipelineError, StoppedError, UnavailableError)}
    return kinds[record.exit_status](f"{record.error} (on worker {record.worker})")
