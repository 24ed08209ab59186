"""The dvc.yaml of the examples, run by DVC."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.workflows import (
    CONFIG,
    PAIRS,
    Workshop,
    assert_same_features,
    find_runner,
    set_up,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def dvc() -> Path:
    return find_runner("dvc")


@pytest.fixture(scope="module")
def finished(dvc: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = set_up(tmp_path_factory.mktemp("dvc"), "dvc.yaml")
    workshop.call(dvc, "init", "--no-scm")
    workshop.call(dvc, "repro")
    return workshop


@pytest.fixture
def workshop(finished: Workshop, tmp_path: Path) -> Workshop:
    copied = finished.copy(tmp_path / "copy")
    copied.take_calls()
    return copied


def test_run_again_it_does_nothing(workshop: Workshop, dvc: Path) -> None:
    assert "up to date" in workshop.call(dvc, "repro")
    assert workshop.take_calls() == []
    assert sorted(workshop.read_features()) == sorted(PAIRS)


def test_a_changed_parameter_runs_what_depends_on_it_and_nothing_else(
    workshop: Workshop, dvc: Path
) -> None:
    small, pixels = CONFIG["backbones"]
    options = small["options"].replace("first:avg", "first:max")
    backbones = [{"name": "small", "options": options}, pixels]
    workshop.configure(backbones=backbones)
    workshop.call(dvc, "repro")
    calls = [call.split() for call in workshop.take_calls()]
    assert sorted(call[0] for call in calls) == ["extract", "extract", "sweep", "sweep"]
    assert all("/small" in call[-1] for call in calls)
    workshop.configure(backbones=backbones, sweep=CONFIG["sweep"].replace("C=0.1,1", "C=0.1,2"))
    workshop.call(dvc, "repro")
    assert [call.split()[0] for call in workshop.take_calls()] == ["sweep"] * 4


def test_deleted_features_are_written_again_and_nothing_follows(
    finished: Workshop, dvc: Path
) -> None:
    before, shards = finished.read_features(), finished.list_shards()
    finished.take_calls()
    (finished.folder("photos", "small") / "features.h5").unlink()
    finished.call(dvc, "repro")
    # The same bytes as before, in the same folder: with a model file, they tell where it lies.
    assert [call.split()[0] for call in finished.take_calls()] == ["extract"]
    assert finished.list_shards() == shards
    assert_same_features(finished.read_features(), before)


def test_the_figures_of_the_best_heads_are_metrics(workshop: Workshop, dvc: Path) -> None:
    shown = workshop.call(dvc, "metrics", "show", "--md")
    for dataset, backbone in PAIRS:
        assert f"results/{dataset}/{backbone}/best/metrics.json" in shown
    assert "accuracy" in shown


def test_materialized_features_can_be_fetched_where_there_is_no_cache(
    workshop: Workshop, dvc: Path
) -> None:
    before = workshop.read_features()
    stages = workshop.root / "dvc.yaml"
    text = stages.read_text()
    changed = text.replace("features.h5: {cache: false}", "features.h5")
    changed = changed.replace("--cache ${cache}", "--cache ${cache} --materialize")
    assert changed.count("\n") == text.count("\n")
    assert changed != text
    stages.write_text(changed)
    workshop.call(dvc, "repro")
    shutil.rmtree(workshop.root / "results")
    shutil.rmtree(workshop.root / "cache")
    workshop.take_calls()
    workshop.call(dvc, "checkout")
    assert workshop.take_calls() == []
    assert_same_features(workshop.read_features(), before)
