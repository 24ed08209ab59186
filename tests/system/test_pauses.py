"""Runs that are stopped and go on, as by Ctrl-Z, a queueing system or a sleeping laptop."""

from __future__ import annotations

import atexit
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.resilience.crowd import LAYERS, Crowd, Scene, expire_soon, go_slowly, set_scene

# Of `expire_soon`, and more than its leases last.
PAUSE_S = 1.5


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return set_scene(tmp_path_factory.mktemp("scene"), n_images=120)


@pytest.fixture
def crowd(scene: Scene, tmp_path: Path) -> Crowd:
    return Crowd(scene, tmp_path / "crowd")


def tell_modules() -> None:
    """Have this process say in the end what it imported."""
    go_slowly()
    sys.modules.pop("distributed", None)
    atexit.register(lambda: print(*sys.modules, file=sys.stderr))


def test_images_are_decoded_here_without_a_distributed_scheduler(crowd: Crowd) -> None:
    crowd.start(crowd.scene.names, LAYERS, tell_modules)
    assert crowd.check() == []
    (ending,) = crowd.end()
    loaded = ending.last_line.split()
    assert "dask.threaded" in loaded
    assert "distributed" not in loaded


def test_a_run_that_was_paused_alone_takes_its_rows_again(crowd: Crowd) -> None:
    child = crowd.start(crowd.scene.names, LAYERS, expire_soon)
    crowd.wait_for_shards(3)
    child.signal(signal.SIGSTOP)
    time.sleep(PAUSE_S)
    child.signal(signal.SIGCONT)
    assert crowd.check(most_work=1.0) == []
    (ending,) = crowd.end()
    assert ending.figures["computed"] == len(crowd.scene.names)


def test_a_run_that_was_paused_leaves_to_others_what_they_took(crowd: Crowd) -> None:
    paused = crowd.start(crowd.scene.names, LAYERS, expire_soon)
    crowd.wait_for_shards(3)
    paused.signal(signal.SIGSTOP)
    try:
        other = crowd.start(crowd.scene.names, LAYERS, expire_soon)
        assert other.wait(60)
    finally:
        paused.signal(signal.SIGCONT)
    assert crowd.check(most_work=1.0) == []
    figures = [ending.figures for ending in crowd.end()]
    assert [one["computed"] + one["reused"] for one in figures] == [120, 120]
    assert all(one["computed"] for one in figures)
