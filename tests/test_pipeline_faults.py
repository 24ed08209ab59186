"""Kills, signals, full disks, rivals and dying workers: real processes, real files."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.features import Features
from pipeline.cli import main
from tests.conftest import LAYERS, write_photos

ROOT = Path(__file__).parent.parent
N_IMAGES = 600
# Small shards, so that there is something to lose: about eight images each.
SHARD_BYTES = 60_000
_DRIVER = """
import sys
import pipeline.writing
pipeline.writing.SHARD_BYTES = int(sys.argv[1])
from pipeline.cli import main
sys.exit(main(sys.argv[2:]))
"""
Process = subprocess.Popen[str]


@dataclass(frozen=True)
class Job:
    """One extraction into a fresh folder, and the values that it must give."""

    folder: Path
    arguments: list[str]
    expected: dict[str, np.ndarray]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def command(self, *options: object, out: str = "features.h5") -> list[str]:
        places = ("--cache", self.cache, "--out", self.folder / out, "--json")
        return ["extract", *self.arguments, *map(str, places), *map(str, options)]

    def start(
        self, *options: object, shard_bytes: int = SHARD_BYTES, out: str = "features.h5", **how: Any
    ) -> Process:
        return subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(shard_bytes), *self.command(*options, out=out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )

    def find_shards(self) -> list[Path]:
        return list(self.cache.glob("*/*/shard-*.h5"))

    def find_temporary(self) -> list[Path]:
        return list(self.folder.rglob(".tmp-*"))

    def check(self, out: str = "features.h5") -> None:
        with Features(self.folder / out) as features:
            assert len(features) == N_IMAGES
            for layer, expected in self.expected.items():
                assert np.allclose(features.read(layer), expected, rtol=1e-5, atol=1e-6)
        assert self.find_temporary() == []

    def finish(self, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        """Run to the end in this process, check the values and return the figures."""
        capsys.readouterr()
        assert main(self.command()) == 0
        self.check()
        figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return figures


@pytest.fixture(scope="module")
def undisturbed(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("undisturbed")
    photos = write_photos(folder / "photos", n_each=N_IMAGES // 2, side=50)
    arguments = ["--images", str(photos), "--backbone", str(backbone), "--layers", LAYERS]
    job = Job(folder, arguments, {})
    assert main(job.command()) == 0
    with Features(folder / "features.h5") as features:
        expected = {layer: features.read(layer) for layer in LAYERS.split(",")}
    return Job(folder, arguments, expected)


@pytest.fixture
def job(undisturbed: Job, tmp_path: Path) -> Job:
    return Job(tmp_path, undisturbed.arguments, undisturbed.expected)


def wait_for(condition: Callable[[], bool], process: Process) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def end(process: Process) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("n_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_as_if_undisturbed(
    job: Job, n_kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(n_kills)
    for _ in range(n_kills):
        n_wanted = len(job.find_shards()) + chance.randint(1, 8)
        process = job.start("--batch-size", "4")
        wait_for(lambda: len(job.find_shards()) >= n_wanted, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        assert end(process)[0] == -signal.SIGKILL
    assert job.finish(capsys)["reused"] >= 8


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_commits_what_was_finished(
    job: Job, number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    process = job.start("--batch-size", "1", shard_bytes=1 << 30)
    wait_for(lambda: any(job.cache.glob("*/last-avg/.tmp-*.h5")), process)
    time.sleep(0.3)  # on a busy machine, the first rows come a while after their file
    process.send_signal(number)
    returned, out, err = end(process)
    assert (returned, out) == (status, "")
    assert err.splitlines()[-1] == "permafrost: interrupted; what was finished is kept"
    assert "Traceback" not in err
    assert len(job.find_shards()) == 2
    figures = job.finish(capsys)
    assert figures["reused"] > 0
    assert figures["computed"] > 0


def test_two_runs_at_once_on_one_cache_are_both_right(job: Job) -> None:
    outs = ("a.h5", "b.h5")
    processes = [job.start("--batch-size", "4", out=out) for out in outs]
    for process, out in zip(processes, outs, strict=True):
        status, _, err = end(process)
        assert status == 0, err
        assert "Warning" not in err
        job.check(out)


def limit_file_size(n_bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


# The first limit leaves room for no index, the second for no chunk, the third for a few.
@pytest.mark.parametrize(
    "n_bytes",
    [
        pytest.param(20_000, marks=pytest.mark.slow),
        pytest.param(300_000, marks=pytest.mark.slow),
        1_500_000,
    ],
)
def test_a_full_disk_stops_with_one_line_and_an_intact_cache(
    job: Job, n_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    process = job.start(shard_bytes=1 << 30, preexec_fn=limit_file_size(n_bytes))
    status, _, err = end(process)
    assert status == 3, err
    assert "the file size limit is reached" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert job.find_temporary() == []
    assert job.finish(capsys)["computed"] == N_IMAGES


def test_a_disk_that_is_full_for_a_moment_leaves_no_gap(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Network file systems say so only at fsync; what is queued behind it must not go on."""
    fsync, calls = os.fsync, itertools.count()

    def fsync_or_fail(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name.startswith(".tmp-") and name.endswith(".h5") and next(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        fsync(descriptor)

    monkeypatch.setattr("pipeline.writing.SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr("os.fsync", fsync_or_fail)
    assert main(job.command("--batch-size", "1")) == 3
    assert "the disk is full" in capsys.readouterr().err
    assert len(job.find_shards()) == 3
    assert job.finish(capsys)["reused"] > 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def test_a_dask_cluster_gives_the_same_values(job: Job, cluster: Any) -> None:
    assert main(job.command("--scheduler", cluster.scheduler_address)) == 0
    job.check()


def test_a_worker_that_dies_while_loading_changes_nothing(job: Job, cluster: Any) -> None:
    from distributed import Client

    with Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))

    def kill() -> None:
        while not any(job.cache.glob("*/first-none/.tmp-*.h5")):
            time.sleep(0.002)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(job.command("--scheduler", cluster.scheduler_address, "--batch-size", "1")) == 0
    killer.join()
    job.check()


def test_a_cluster_that_goes_away_ends_the_run_with_one_line(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=True, dashboard_address=":0") as cluster:
        process = job.start(
            *("--scheduler", cluster.scheduler_address, "--batch-size", "1"), shard_bytes=1 << 30
        )
        wait_for(lambda: any(job.cache.glob("*/first-none/.tmp-*.h5")), process)
    status, _, err = end(process)
    assert (status, "Traceback" in err) == (3, False)
    assert "the Dask cluster was lost" in err.splitlines()[-1]
    assert job.finish(capsys)["reused"] > 0
