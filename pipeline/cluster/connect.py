"""A Dask cluster's scheduler, and what it says of its workers."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, LocalCluster

from permafrost.cores import count_cores
from permafrost.pipeline.errors import Interrupted, PipelineError

_CONNECT_TIMEOUT_S = 10
# Of all the steps of it, each of which may take the former.
_OPEN_TIMEOUT_S = 30
_ASK_TIMEOUT_S = 10
# ``--scheduler local:4`` starts four worker processes here.
_LOCAL = "local:"
# What a worker may offer, so that it is given no more claims at once than it can compute:
# dask worker --resources "backbone=1".
RESOURCE = "backbone"
# A worker that has been silent for so long, while others were not, was stopped or is unreachable.
# The scheduler itself drops it after five minutes.
SILENT_S = 20.0
# They log where Dask's dashboard is and which worker left; what matters is raised as an error.
_DASK_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.http.proxy",
    "distributed.nanny",
    "distributed.scheduler",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as the scheduler knows it.

    Attributes
    ----------
    address : str
    is_silent : bool
        Whether others were heard of `SILENT_S` after it.
    has_resource : bool
        Whether it offers `RESOURCE`.
    """

    address: str
    is_silent: bool
    has_resource: bool


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Connect to a scheduler; ``local:N`` starts one with N worker processes here.

    Raises
    ------
    PipelineError
        No scheduler answers, or the number of processes is none.
    """
    with _dask_as_a_guest():
        if address.startswith(_LOCAL):
            with _start_workers(address) as cluster, _start_client(cluster) as client:
                yield client
            return
        try:
            client = _open_client(address)
        # What Dask raises of addresses in schemes that are not for it is any of these.
        except (OSError, ValueError, TypeError, ImportError, AssertionError) as error:
            reason = str(error) or "its answer is none of a scheduler's"
            raise PipelineError(
                f"no Dask scheduler answers at {address!r} ({reason}); start one with dask"
                " scheduler, or drop --scheduler"
            ) from error
        with client:
            yield client


def _start_client(scheduler: str | LocalCluster, **options: float) -> Client:
    """Start a client, and close it where that fails.

    Dask closes it when it is collected. Where that happens in a thread that starts another client
    just then, it waits for a lock that the thread itself has (seen with Dask 2026.8).
    """
    client = Client.__new__(Client)
    try:
        client.__init__(scheduler, **options)
    except BaseException:
        with suppress(AttributeError):  # It may have failed before there was anything to close.
            client.close()
        raise
    return client


def _open_client(address: str) -> Client:
    """Connect, in a thread that is left alone: Dask waits for an open port without an end."""
    opened: Future[Client] = Future()

    def connect_once() -> None:
        try:
            client = _start_client(address, timeout=_CONNECT_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - raised by who waits for it
            with suppress(InvalidStateError):  # nobody does any more
                opened.set_exception(error)
            return
        try:
            opened.set_result(client)
        except InvalidStateError:
            client.close()

    threading.Thread(target=connect_once, name="connect", daemon=True).start()
    try:
        return opened.result(_OPEN_TIMEOUT_S)
    except TimeoutError as error:
        if not opened.cancel():
            raise
        raise TimeoutError(f"silent for {_OPEN_TIMEOUT_S} s") from error


def _start_workers(address: str) -> LocalCluster:
    number = address.removeprefix(_LOCAL)
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise PipelineError(
            f"--scheduler {address!r}: name a number of processes, as in {_LOCAL}{count_cores()}"
        )
    return LocalCluster(
        n_workers=int(number),
        threads_per_worker=max(1, count_cores() // int(number)),
        processes=True,
        memory_limit=0,  # `--memory` bounds each of them
        dashboard_address="127.0.0.1:0",  # with None it takes a port that may be taken
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _dask_as_a_guest() -> Iterator[None]:
    """Silence Dask; leave its loggers, and the generator that it draws from, as they were."""
    state = random.getstate()
    before = {name: logging.getLogger(name).level for name in _DASK_LOGGERS}
    for name in _DASK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    except Interrupted:
        before.clear()  # Dask closes what is left of it as the process ends
        raise
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        random.setstate(state)


def list_workers(client: Client) -> list[Worker] | None:
    """List the workers of a scheduler; None where it does not answer now."""
    answer: Mapping[str, Any] | None = None
    with suppress(OSError):  # its TimeoutError included
        answer = client.sync(client.scheduler.identity, callback_timeout=_ASK_TIMEOUT_S)
    if answer is None:
        return None
    workers = answer["workers"]
    # By the scheduler's own clock, which need not be ours.
    latest_s = max((worker["last_seen"] for worker in workers.values()), default=0.0)
    return [
        Worker(
            address=address,
            is_silent=latest_s - worker["last_seen"] > SILENT_S,
            has_resource=worker["resources"].get(RESOURCE, 0) >= 1,
        )
        for address, worker in workers.items()
    ]


def find_places(client: Client) -> dict[str, str]:
    """Return which worker each unfinished task was given to; nothing where nobody answers."""
    answer: Mapping[str, Any] = {}
    with suppress(OSError):
        answer = client.sync(client.scheduler.processing, callback_timeout=_ASK_TIMEOUT_S)
    return {key: address for address, keys in answer.items() for key in keys}
