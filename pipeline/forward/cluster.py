"""A Dask cluster that decodes batches; nothing else here imports `distributed`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any

from distributed import Client, KilledWorker, wait

from permafrost.pipeline.errors import PipelineError, UnavailableError
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10
# After so long without the batch that is waited for, the cluster is asked for its workers.
_ASK_EVERY_S = 60.0
# So many times in a row there may be none: a queueing system may be starting some, and Dask itself
# takes five minutes to give up a worker that is silent. They are counted, and not the seconds: this
# process may have been stopped itself.
_PATIENCE = 5
# They log where Dask's dashboard is and which worker left; what matters is raised as an error.
_DASK_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.http.proxy",
    "distributed.scheduler",
)


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Connect to a scheduler; `PipelineError` where none answers."""
    with _dask_as_a_guest():
        try:
            client = Client(address, timeout=_CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as error:
            raise PipelineError(
                f"no Dask scheduler answers at {address!r} ({error}); start one with dask"
                " scheduler, or drop --scheduler"
            ) from error
        with client:
            yield Cluster(client, address)


@contextmanager
def _dask_as_a_guest() -> Iterator[None]:
    """Silence Dask; leave its loggers, and the generator that it draws from, as they were."""
    state = random.getstate()
    before = {name: logging.getLogger(name).level for name in _DASK_LOGGERS}
    for name in _DASK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        random.setstate(state)


class Cluster:
    """The workers of a scheduler."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address

    def submit(
        self, load: Callable[[BatchTask], LoadedBatch], task: BatchTask
    ) -> Callable[[], LoadedBatch]:
        """Have a batch loaded; return what waits for it, and forgets it."""
        return partial(self._wait, self._client.submit(load, task, pure=False))

    def _wait(self, future: Any) -> LoadedBatch:
        try:
            self._wait_until_done(future)
            batch: LoadedBatch = future.result()
        except (CancelledError, KilledWorker) as error:
            raise UnavailableError(
                f"the Dask cluster was lost ({type(error).__name__}); what was finished is kept:"
                " run again once it is back, or without --scheduler"
            ) from error
        return batch

    def _wait_until_done(self, future: Any) -> None:
        n_left = _PATIENCE
        while n_left:
            try:
                wait(future, timeout=_ASK_EVERY_S)
            except TimeoutError:
                n_workers = self._count_workers()
                n_left = _PATIENCE if n_workers else n_left - 1
                _log.warning(
                    "waiting for the Dask cluster at %r, which has %d workers",
                    self._address,
                    n_workers,
                )
            else:
                return
        raise UnavailableError(
            f"the Dask cluster at {self._address!r} has had no workers for"
            f" {_PATIENCE * _ASK_EVERY_S:.0f} s; what was finished is kept: run again once it has"
            " some, or without --scheduler"
        )

    def _count_workers(self) -> int:
        ask = self._client.scheduler.ncores
        try:
            return len(self._client.sync(ask, callback_timeout=_ASK_EVERY_S))
        except OSError:  # a scheduler that does not answer, which is a TimeoutError, included
            return 0
