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


MAKING = {
    "predict": {"images": "photos", "out": "new.csv"},
    "audit": {},
    "select": {"n": 3, "from_split": "test", "out": "next.csv"},
    "export": "m.keras",
}
MADE = {
    "predict-0": "new.csv",
    "audit": "runs/audit/issues.csv",
    "select": "next.csv",
    "export": "m.keras",
}


def test_what_steps_made_is_neither_made_again_by_them_nor_by_the_summary(place, ask):
    told = {name: ask("--step", name, "--json", **MAKING) for name in MADE}
    (place / "runs/summary.json").unlink()
    times = {file: (place / file).stat().st_mtime_ns for file in MADE.values()}
    again = {name: ask("--step", name, "--json", **MAKING) for name in MADE}
    for name in MADE:
        assert call_main("run", "experiment.yaml", "--step", name, "--skip-status", "9") == 9
    found = ask("--step", "summary", "--json", **MAKING)
    assert {file: (place / file).stat().st_mtime_ns for file in times} == times
    assert again["predict-0"] == found["predictions"][0]
    for name in ("audit", "select", "export"):
        assert told[name] == again[name] == found[name]
    assert call_main("run", "experiment.yaml", "--skip-status", "9") == 9


@pytest.mark.parametrize("name", MADE)
def test_a_step_is_done_again_where_its_file_or_what_it_is_made_of_is_another(place, ask, name):
    file = place / MADE[name]
    ask("--step", name, "--json", **MAKING)
    before = file.read_bytes()
    file.write_bytes(b"mine")
    ask("--step", name, "--json", **MAKING)
    after = file.read_bytes()
    # Keras counts its layers, and says when it wrote a file.
    assert after == before or (name == "export" and after != b"mine")
    for step in ("sweep", name):
        ask("--step", step, "--json", **MAKING, heads=[{"kind": "logreg", "C": 7}])
    # The other two go by the layer of the best head, not by its settings.
    assert name in ("audit", "select") or file.read_bytes() != before


def test_a_step_before_the_sweep_says_so(place, capsys):
    write_experiment(**MAKING)
    shutil.rmtree(place / "runs/best")
    (place / "runs/sweep.json").unlink()
    for name in MADE:
        assert call_main("run", "experiment.yaml", "--step", name) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.endswith("experiment.yaml: there is no sweep in 'runs'; do its step first")


def test_a_step_that_does_not_exist_is_one_line(place, capsys):
    assert call_main("run", "experiment.yaml", "--step", "extract-tyni") == 2
    assert "did you mean 'extract-tiny'" in capsys.readouterr().err.splitlines()[-1]
