"""A cluster without workers is waited for, with a word and an end: real schedulers and workers."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.errors import UnavailableError
from permafrost.pipeline.forward import cluster as module
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch

TASK = BatchTask(rows=np.arange(3), paths=["a", "b", "c"], digests=[b""] * 3)


def load(task: BatchTask) -> LoadedBatch:
    return LoadedBatch(rows=task.rows, pixels=np.zeros((len(task.rows), 1, 1, 3), np.uint8))


@pytest.fixture(autouse=True)
def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASK_EVERY_S", 0.3)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a scheduler, which writes its address to a file, in a process of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
            *("--port", "0", "--no-dashboard", "--scheduler-file", tmp_path / "scheduler.json"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def find_address(process: subprocess.Popen[bytes], folder: Path) -> str:
    file = folder / "scheduler.json"
    while not file.exists() or not file.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    address: str = json.loads(file.read_text())["address"]
    return address


def test_a_cluster_without_workers_ends_the_run_after_a_word(
    scheduler: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = find_address(scheduler, tmp_path)
    with (
        pytest.raises(UnavailableError, match="has had no workers"),
        module.connect(address) as cluster,
    ):
        cluster.submit(load, TASK)()
    assert f"waiting for the Dask cluster at {address!r}, which has 0 workers" in caplog.messages


def test_a_scheduler_that_is_paused_for_good_ends_the_run_too(
    scheduler: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    address = find_address(scheduler, tmp_path)
    with module.connect(address) as cluster:
        wait = cluster.submit(load, TASK)
        scheduler.send_signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="has had no workers"):
            wait()
        scheduler.send_signal(signal.SIGCONT)


def test_workers_that_come_late_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(module, "_PATIENCE", 1000)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as workers,
        module.connect(workers.scheduler_address) as cluster,
    ):
        log = module._log.warning

        def start_one(*said: object) -> None:
            log(*said)
            workers.scale(1)

        monkeypatch.setattr(module._log, "warning", start_one)
        assert cluster.submit(load, TASK)().rows.tolist() == [0, 1, 2]
    assert "which has 0 workers" in caplog.text


def test_a_cluster_leaves_loggers_and_generators_as_they_were() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as workers:
        levels = {name: logging.getLogger(name).level for name in module._DASK_LOGGERS}
        state = random.getstate()
        with module.connect(workers.scheduler_address) as cluster:
            assert cluster.submit(load, TASK)().rows.tolist() == [0, 1, 2]
        assert random.getstate() == state
        assert {name: logging.getLogger(name).level for name in levels} == levels
