"""Signals, a disk that is full for a moment, and dying workers: real processes, real files."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permafrost.cache.views.features import Features
from permafrost.pipeline.cli.main import main
from tests.helpers.inputs import LAYERS, write_photos
from tests.resilience.child import Child
from tests.resilience.jobs import SHARD_BYTES, list_unfinished, make_small_shards

N_IMAGES = 600


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

    def start(self, *options: object) -> Child:
        """Start it with shards that nothing fills up."""
        output = self.folder.parent / f"{self.folder.name}-output"
        prepare = partial(make_small_shards, 1 << 30)
        return Child(self.command(*options), output=output, prepare=prepare)

    def find_shards(self) -> list[Path]:
        return list(self.cache.glob("*/*/shard-*.h5"))

    def check(self, out: str = "features.h5") -> None:
        with Features(self.folder / out) as features:
            assert len(features) == N_IMAGES
            for layer, expected in self.expected.items():
                assert np.allclose(features.read(layer), expected, rtol=1e-5, atol=1e-6)
        assert list_unfinished(self.folder) == []

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


def wait_for(condition: Callable[[], bool], child: Child) -> None:
    while not condition() and child.is_running:
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_commits_what_was_finished(
    job: Job, number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    child = job.start("--batch-size", "1")
    wait_for(lambda: any(job.cache.glob("*/last-avg/.tmp-*.h5")), child)
    time.sleep(0.3)  # on a busy machine, the first rows come a while after their file
    child.signal(number)
    ending = child.end()
    assert (ending.status, ending.out) == (status, "")
    assert ending.last_line == "permafrost: interrupted; what was finished is kept"
    assert "Traceback" not in ending.err
    assert len(job.find_shards()) == 2
    figures = job.finish(capsys)
    assert figures["reused"] > 0
    assert figures["computed"] > 0


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

    monkeypatch.setattr("permafrost.cache.shards.format.SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr("os.fsync", fsync_or_fail)
    assert main(job.command("--batch-size", "1")) == 75
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
        child = job.start("--scheduler", cluster.scheduler_address, "--batch-size", "1")
        wait_for(lambda: any(job.cache.glob("*/first-none/.tmp-*.h5")), child)
    ending = child.end()
    assert (ending.status, "Traceback" in ending.err) == (75, False)
    assert "the Dask cluster was lost" in ending.last_line
    assert job.finish(capsys)["reused"] > 0
