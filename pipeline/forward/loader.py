"""Dask decodes batches of images ahead of the backbone."""

from __future__ import annotations

import itertools
import logging
import random
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from permafrost.pipeline.errors import PipelineError, StoppedError
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch, load_batch
from permafrost.pipeline.options import RunOptions

if TYPE_CHECKING:
    from distributed import Client

    from permafrost.pipeline.planning.prepare import Preparation

# Of the memory budget, the share of decoded images that wait for the backbone.
_AHEAD_SHARE = 0.25
_CONNECT_TIMEOUT_S = 10
# Dask always starts HTTP servers: nobody else reaches them here, and any free port will do.
_LOOPBACK = "127.0.0.1:0"
# They log where Dask's dashboard is and which worker left; what matters is raised as an error.
_DASK_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.http.proxy",
    "distributed.scheduler",
)


@contextmanager
def open_client(options: RunOptions) -> Iterator[Client]:
    """Connect to the scheduler of the options, or start one with threads of this process.

    Threads are enough: Pillow releases the interpreter lock while it decodes and resizes.
    """
    from distributed import Client, LocalCluster

    if options.scheduler:
        with _dask_as_a_guest(), _connect(options.scheduler) as client:
            yield client
        return
    # Without a memory limit Dask spills nothing to disk: `choose_ahead` bounds what is in memory.
    with (
        _dask_as_a_guest(),
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


@contextmanager
def _dask_as_a_guest() -> Iterator[None]:
    """Silence Dask; leave its loggers, and the generator that it draws from, as they were."""
    state = random.getstate()
    before = {name: logging.getLogger(name).level for name in _DASK_LOGGERS}
    for name in _DASK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Dask warns of a scratch folder that took a second to make, as when many runs start.
            warnings.filterwarnings("ignore", message="Creating scratch directories")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        random.setstate(state)


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


def load_ahead(
    client: Client, prepared: Preparation, tasks: Iterator[BatchTask], run: RunOptions
) -> Iterator[LoadedBatch]:
    """Yield batches of a plan in order, and load as many ahead as the memory budget allows."""
    spec = prepared.decode
    load = partial(load_batch, prepared.dataset.source, spec=spec, isolation=prepared.isolation)
    batch_bytes = prepared.batch_size * spec.height * spec.width * spec.channels
    submitted = (client.submit(load, task, pure=False) for task in tasks)
    futures = deque(itertools.islice(submitted, choose_ahead(batch_bytes, run)))
    while futures:
        batch = _wait(futures.popleft())
        # The future is gone by now, and with it Dask's hold on the batch.
        futures.extend(itertools.islice(submitted, 1))
        yield batch


def choose_ahead(batch_bytes: int, options: RunOptions) -> int:
    """Choose how many batches load ahead: two a worker, within the memory budget."""
    fitting = int(options.memory_bytes * _AHEAD_SHARE) // max(1, batch_bytes)
    return max(2, min(2 * options.workers + 1, fitting))
