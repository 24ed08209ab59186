"""What `run` tells workflow runners: a rehearsal that does nothing, and steps that do as much."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess

import h5py
import numpy as np
import pytest

from permafrost.command import PROGRAM
from tests.helpers.experiments import call_main, write_experiment

ALL = {"predict": {"images": "photos", "out": "new.csv"}, "export": "models/m.keras"}
NAMES = ["extract-tiny", "extract-other", "sweep", "predict-0", "export", "summary"]


def list_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def ask(capsys):
    """Call `run` on an experiment with options; returns the JSON that was printed."""

    def call(*options, **replaced):
        write_experiment(**(ALL | replaced))
        capsys.readouterr()
        assert call_main("run", "experiment.yaml", *options) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)

    return call


def test_a_rehearsal_says_what_is_missing_and_writes_nothing(place, ask):
    write_experiment(**ALL)
    shutil.rmtree(place / "runs")
    shutil.rmtree(place / "cache")
    before = list_files(place)
    steps = ask("--dry-run", "--json", "--skip-status", "99")["steps"]
    assert list_files(place) == before
    assert not (place / "cache").exists() and not (place / "runs").exists()
    assert not (place / "models").exists()
    assert [one["name"] for one in steps] == NAMES
    assert [one.get("to_do") for one in steps] == [40, 40, 12, 40, None, None]


def test_a_rehearsal_of_what_is_finished_has_nothing_to_do(place, ask):
    steps = ask("--dry-run", "--json")["steps"]
    assert [one.get("to_do") for one in steps][:3] == [0, 0, 0]
    steps = ask("--dry-run", "--json", heads=[{"kind": "logreg", "C": [0.01, 1, 2]}])["steps"]
    assert [one.get("to_do") for one in steps][:3] == [0, 0, 6]


def test_a_rehearsal_finds_what_is_wrong(place, capsys):
    write_experiment(images="absent")
    assert call_main("run", "experiment.yaml", "--dry-run") == 2
    assert "absent" in capsys.readouterr().err


def test_a_rehearsal_of_an_extract_is_a_plan(extract, tmp_path):
    found = extract("--dry-run").figures
    assert (found["to_compute"], found["images"]) == (12, 12)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "features.h5").exists()


def read_table(file):
    with file.open(newline="") as stream:
        return [{**row, "seconds": ""} for row in csv.DictReader(stream)]


def test_the_steps_one_by_one_leave_what_a_run_leaves(place, ask, run):
    run(**ALL)
    shutil.move(place / "runs", place / "whole")
    shutil.move(place / "new.csv", place / "whole.csv")
    (place / "models/m.keras").unlink()
    found = ask("--plan-json", "--workers", "1")
    assert (found["folder"], found["experiment"]) == (str(place), "experiment.yaml")
    assert [one["name"] for one in found["steps"]] == NAMES
    for step in found["steps"]:
        for file in step["inputs"]:
            assert (place / file).exists(), (step["name"], file)
        assert step["command"][: len(PROGRAM)] == list(PROGRAM)
        arguments = step["command"][len(PROGRAM) :]
        assert arguments == ["run", "experiment.yaml", "--workers", "1", "--step", step["name"]]
        assert call_main(*arguments) == 0
        for file in step["outputs"]:
            assert (place / file).exists(), (step["name"], file)
    whole, runs = place / "whole", place / "runs"
    for name in ("tiny/features.h5", "other/features.h5", "best/predictions.csv", "folds.csv"):
        assert (runs / name).read_bytes() == (whole / name).read_bytes()
    assert read_table(runs / "leaderboard.csv") == read_table(whole / "leaderboard.csv")
    assert (place / "new.csv").read_bytes() == (place / "whole.csv").read_bytes()
    assert call_main("run", "experiment.yaml", "--skip-status", "99") == 99


def test_the_steps_are_told_without_reading_an_image_and_run_by_themselves(place, ask):
    view = place / "runs/tiny/features.h5"
    with h5py.File(view) as file:
        before = file["features/last:avg"][()]
    view.unlink()
    (place / "photos").rename(place / "away")
    first, *_ = ask("--plan-json")["steps"]
    assert first["inputs"] == ["experiment.yaml", "photos", "tiny.keras"]
    (place / "away").rename(place / "photos")
    subprocess.run(first["command"], check=True, cwd=place, capture_output=True)
    with h5py.File(view) as file:
        np.testing.assert_array_equal(file["features/last:avg"][()], before)


def test_a_step_that_does_not_exist_is_one_line(place, capsys):
    assert call_main("run", "experiment.yaml", "--step", "extract-tyni") == 2
    assert "did you mean 'extract-tiny'" in capsys.readouterr().err.splitlines()[-1]
