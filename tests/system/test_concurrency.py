"""Processes on one cache at once, some of them killed or stopped: real ones, on real files."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from permafrost.pipeline.export.classifier import load_classifier
from tests.helpers.answers import Command
from tests.resilience import together
from tests.resilience.child import Child
from tests.resilience.crowd import Crowd, Scene, save_slowly, set_scene
from tests.resilience.jobs import list_jobs
from tests.resilience.jobs import set_scene as set_jobs_scene
from tests.resilience.together import Trial


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return set_scene(tmp_path_factory.mktemp("scene"), n_images=160)


@pytest.fixture
def crowd(scene: Scene, tmp_path: Path) -> Crowd:
    return Crowd(scene, tmp_path / "crowd")


def test_two_runs_at_once_share_the_work(crowd: Crowd) -> None:
    for _ in range(2):
        crowd.start(crowd.scene.names)
    assert crowd.check() == []
    figures = [ending.figures for ending in crowd.end()]
    assert [one["computed"] + one["reused"] for one in figures] == [160, 160]
    assert all(one["computed"] for one in figures)
    left = [path.name for path in (crowd.folder / "cache/leases").iterdir()]
    assert left == ["lock"]


def test_the_rows_of_a_killed_run_are_taken_over(crowd: Crowd) -> None:
    assert together.try_kill(crowd, random.Random(0)) == []


SLOW = [
    pytest.param(trial, id=trial.__name__, marks=pytest.mark.slow)
    for trial in together.TRIALS
    if trial is not together.try_kill
]


@pytest.mark.parametrize("trial", SLOW)
def test_all_end_and_are_right(crowd: Crowd, trial: Trial) -> None:
    assert trial(crowd, random.Random(0)) == []


@pytest.mark.slow
def test_commands_that_write_the_same_files_at_once_are_both_right(tmp_path: Path) -> None:
    found = list_jobs(set_jobs_scene(tmp_path / "scene"))
    for name in together.TWICE:
        assert together.run_twice(found[name], tmp_path / name) == [], name


def test_a_run_with_nothing_to_do_leaves_no_lease_behind(crowd: Crowd) -> None:
    names = crowd.scene.names[:8]
    for _ in range(2):
        crowd.start(names)
        assert crowd.check() == []
        assert [file.name for file in (crowd.folder / "cache/leases").iterdir()] == ["lock"]


def test_of_two_fits_at_once_into_one_folder_one_is_left_whole(
    scene: Scene, tmp_path: Path, command: Command
) -> None:
    """The head of one with the record of the other would predict what neither of them does."""
    assert scene.expected
    fit = ("fit", "--features", scene.folder / "alone/0.h5", "--layer", "last:avg")
    ridge = (*fit, "--head", "ridge", "--task", "regression", "--out")
    out, alone = tmp_path / "model", tmp_path / "alone"
    slow = Child([*ridge, out, "--set", "alpha=7"], output=tmp_path, prepare=save_slowly)
    while slow.is_running and not (out / "head/head.json").exists():
        time.sleep(0.002)
    for folder in (out, alone):
        answer = command(*ridge, folder, "--set", "alpha=3")
        assert answer.status == 0, answer.err
    assert slow.end().status == 0
    for file in ("model.json", "head/head.json", "predictions.csv"):
        assert (out / file).read_text() == (alone / file).read_text()
    assert load_classifier(out).head.settings.alpha == 3.0
