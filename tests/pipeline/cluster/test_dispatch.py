"""Claims are given again where workers are silent, late or gone: real schedulers and workers."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from permafrost.pipeline.cluster import connect as connecting
from permafrost.pipeline.cluster import dispatch as module
from permafrost.pipeline.cluster.claim import ClaimRecord
from permafrost.pipeline.cluster.connect import connect, list_workers
from permafrost.pipeline.cluster.dispatch import Dispatcher
from permafrost.pipeline.cluster.queue import Claim, ClaimQueue
from permafrost.pipeline.errors import PipelineError, UnavailableError
from tests.helpers import ROOT
from tests.helpers.clusters import DaskCluster, wait_for

CONNECT = """
import sys
import permafrost
from permafrost.pipeline.cluster import connect
from permafrost.pipeline.errors import PipelineError

connect._OPEN_TIMEOUT_S = 1
try:
    with connect.connect(sys.argv[1]):
        pass
except PipelineError as error:
    print(error)
"""


class JobStub:
    """What travels with each claim; these tests compute nothing."""

    token = "test"


def answer(_job: object, start: int, stop: int, _others: str) -> ClaimRecord:
    return ClaimRecord(worker="", n_computed=stop - start)


def open_queue(n_rows: int = 3) -> ClaimQueue:
    return ClaimQueue([Claim(start=0, stop=n_rows)], batch_size=1, most_batches=4)


def work_off(client: Any, claims: ClaimQueue) -> list[tuple[int, int]]:
    dispatcher = Dispatcher(client, JobStub())  # type: ignore[arg-type]
    return sorted((claim.start, claim.stop) for claim, _ in dispatcher.work_off(claims))


@pytest.fixture(autouse=True)
def answer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_claim", answer)
    monkeypatch.setattr(module, "_LOOK_S", 0.1)
    monkeypatch.setattr(module, "_WARN_EVERY_S", 0.2)
    monkeypatch.setattr(module, "_PATIENCE_S", 2.5)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    with DaskCluster(tmp_path / "dask") as cluster:
        yield cluster


def test_a_cluster_without_workers_ends_the_run_after_a_word(
    cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        connect(cluster.address) as client,
        pytest.raises(UnavailableError, match="has had no workers"),
    ):
        work_off(client, open_queue())
    address = cluster.address
    assert f"waiting for the Dask cluster at {address!r}, which has 0 workers" in caplog.messages


def test_a_scheduler_that_is_paused_for_good_ends_the_run_too(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_ASK_TIMEOUT_S", 0.3)
    with connect(cluster.address) as client:
        cluster.scheduler.send_signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="has had no workers"):
            work_off(client, open_queue())
        cluster.scheduler.send_signal(signal.SIGCONT)


def test_workers_that_come_late_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as workers,
        connect(workers.scheduler_address) as client,
    ):
        log = module._log.warning

        def start_one(*said: object) -> None:
            log(*said)
            workers.scale(1)

        monkeypatch.setattr(module._log, "warning", start_one)
        assert work_off(client, open_queue()) == [(0, 2), (2, 3)]
    assert "which has 0 workers" in caplog.text


def test_a_stopped_worker_is_silent_and_its_claims_go_to_another(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "SILENT_S", 1.5)
    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(ClaimQueue, "count_seconds", lambda _queue, _n_rows: 1.0)
    for _ in range(2):
        cluster.add_worker()
    address, pid = next(iter(cluster.list_workers().items()))
    os.kill(pid, signal.SIGSTOP)
    with connect(cluster.address) as client:

        def find_silent() -> list[str]:
            return [one.address for one in list_workers(client) or () if one.is_silent]

        claims = work_off(client, open_queue(40))
        assert [start for start, _ in claims[1:]] == [stop for _, stop in claims[:-1]]
        assert (claims[0][0], claims[-1][1]) == (0, 40)
        wait_for(lambda: find_silent() == [address])
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "address",
    [
        "foo://bar",
        "tls://127.0.0.1:1",
        pytest.param("tcp://127.0.0.1:1", marks=pytest.mark.slow),  # tried for ten seconds
    ],
)
def test_an_address_that_is_none_is_one_line_and_leaves_no_client_to_be_collected(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected while another one starts, it would wait for a lock of the very same thread."""
    failed: list[Client] = []
    start = Client.start

    def note(client: Client, **options: Any) -> None:
        failed.append(client)
        start(client, **options)

    monkeypatch.setattr(Client, "start", note)
    with pytest.raises(PipelineError) as told, connect(address):
        pass
    assert str(told.value).startswith(f"no Dask scheduler answers at {address!r} (")
    assert [client.status for client in failed] == ["closed"]


def test_a_port_that_never_answers_is_one_line() -> None:
    """In a process of its own: a thread stays that goes on waiting."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        command = [sys.executable, "-c", CONNECT, f"tcp://127.0.0.1:{mute.getsockname()[1]}"]
        told = subprocess.check_output(command, cwd=ROOT, text=True)
    assert "(silent for 1 s); start one with dask scheduler" in told


def refuse(*_: object) -> ClaimRecord:
    from distributed import get_worker

    return ClaimRecord(worker=get_worker().address, refused="it has another Keras")


def test_workers_for_else_are_given_nothing_when_those_that_offer_the_resource_refuse(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "run_claim", refuse)
    cluster.add_worker()
    cluster.add_worker("--resources", "backbone=1")
    with (
        connect(cluster.address) as client,
        pytest.raises(PipelineError, match="no worker of the cluster can compute this"),
    ):
        work_off(client, open_queue())
    assert sum("is left out" in message for message in caplog.messages) == 1


def fail_of_time(*_: object) -> ClaimRecord:
    raise OSError(errno.ETIMEDOUT, "the server of the cache is silent")


def test_a_file_system_that_times_out_on_a_worker_ends_the_run(
    cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_claim", fail_of_time)
    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)
    cluster.add_worker()
    with (
        connect(cluster.address) as client,
        pytest.raises(TimeoutError, match="the server of the cache"),
    ):
        work_off(client, open_queue())


def test_a_cluster_leaves_loggers_and_generators_as_they_were() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as workers:
        names = connecting._DASK_LOGGERS
        levels = {name: logging.getLogger(name).level for name in names}
        state = random.getstate()
        with connect(workers.scheduler_address) as client:
            assert work_off(client, open_queue()) == [(0, 2), (2, 3)]
        assert random.getstate() == state
        assert {name: logging.getLogger(name).level for name in names} == levels
