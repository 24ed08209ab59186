"""The Snakefile of the examples, run by Snakemake."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.workflows import (
    N_IMAGES,
    PAIRS,
    Workshop,
    assert_same_features,
    find_runner,
    read_summary,
    set_up,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def snakemake() -> list[object]:
    return [find_runner("snakemake"), "--cores", 2]


@pytest.fixture(scope="module")
def finished(snakemake: list[object], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = set_up(tmp_path_factory.mktemp("snakemake"), "Snakefile")
    workshop.call(*snakemake)
    return workshop


@pytest.fixture
def workshop(finished: Workshop, tmp_path: Path) -> Workshop:
    copied = finished.copy(tmp_path / "copy")
    copied.take_calls()
    return copied


def count_computed(workshop: Workshop) -> list[int]:
    files = [workshop.folder(*pair) / "extract.json" for pair in PAIRS]
    return [read_summary(file.read_text())["computed"] for file in files]


def test_each_dataset_goes_through_each_backbone_once(finished: Workshop) -> None:
    assert count_computed(finished) == [N_IMAGES] * 4
    for pair in PAIRS:
        board = (finished.folder(*pair) / "leaderboard.csv").read_text()
        assert len(board.splitlines()) > 2


def test_run_again_it_does_nothing(workshop: Workshop, snakemake: list[object]) -> None:
    assert "Nothing to be done" in workshop.call(*snakemake)
    assert workshop.take_calls() == []


def test_deleted_features_are_written_again_without_computing(
    workshop: Workshop, snakemake: list[object]
) -> None:
    before = workshop.read_features()
    for pair in PAIRS:
        (workshop.folder(*pair) / "features.h5").unlink()
    workshop.call(*snakemake)
    assert count_computed(workshop) == [0] * 4
    assert_same_features(workshop.read_features(), before)


def test_forced_it_runs_every_rule_and_computes_no_image(
    workshop: Workshop, snakemake: list[object]
) -> None:
    before = workshop.read_features()
    workshop.call(*snakemake, "--forceall")
    commands = [call.split()[0] for call in workshop.take_calls()]
    assert sorted(commands) == sorted(["index"] * 2 + ["extract"] * 4 + ["sweep"] * 4)
    assert count_computed(workshop) == [0] * 4
    assert_same_features(workshop.read_features(), before)


def test_a_new_image_alone_is_computed(workshop: Workshop, snakemake: list[object]) -> None:
    china = workshop.root / "photos" / "china"
    (workshop.root / "crops" / "china" / "0001.jpg").rename(china / "new.jpg")
    workshop.call(*snakemake)
    # It was there under another name, in the other dataset: known by its bytes.
    assert count_computed(workshop) == [0] * 4
    (china / "0002.jpg").write_bytes((china / "0003.jpg").read_bytes() + b"edited")
    os.utime(china)
    workshop.call(*snakemake)
    assert count_computed(workshop)[:2] == [1, 1]


def test_killed_and_run_again_it_ends_as_if_undisturbed(
    finished: Workshop, snakemake: list[object], tmp_path: Path
) -> None:
    workshop = set_up(tmp_path, "Snakefile")
    running = workshop.start(*snakemake)
    while not list((workshop.root / "cache" / "leases").glob("use-*")):
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not list(workshop.root.glob("results/*/*/leaderboard.csv"))
    workshop.call(*snakemake, "--unlock")
    workshop.call(*snakemake, "--rerun-incomplete")
    assert_same_features(workshop.read_features(), finished.read_features())
    assert "Nothing to be done" in workshop.call(*snakemake)
