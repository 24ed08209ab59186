"""An experiment from its file to its heads: what it leaves, what stops it, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.pipeline.sweeps.journal import Journal
from tests.helpers import ROOT
from tests.helpers.experiments import call_main, count_computed, write_experiment


def read_features(view, layer):
    with h5py.File(view) as file:
        labels, splits = (file[f"images/{name}"].asstr()[()] for name in ("label", "split"))
        return file[f"features/{layer}"][()], labels, splits


def list_tried(figures):
    return {
        (one["layer"], one["head"], one["settings"].get("C")) for one in figures["configurations"]
    }


def test_every_head_is_tried_on_every_layer_of_every_backbone(place, run):
    layers = ["first:avg", "tiny/last:avg", "other/last:max"]
    tried = list_tried(run())
    assert tried == {(layer, "logreg", c) for layer in layers for c in (0.01, 1)}


def test_the_files_are_those_of_a_sweep(finished):
    files = {str(path.relative_to(finished / "runs")) for path in (finished / "runs").rglob("*.*")}
    assert files == {
        *("tiny/features.h5", "other/features.h5", "summary.json", "journal.jsonl"),
        *("leaderboard.csv", "results.csv", "folds.csv", "sweep.json"),
        *("best/metrics.json", "best/predictions.csv", "best/model.json"),
        *("best/head/head.json", "best/head/head.skops"),
    }


def test_the_best_equals_plain_scikit_learn_on_its_features(finished):
    best = finished / "runs/best"
    record, metrics = (
        json.loads((best / name).read_text()) for name in ("model.json", "metrics.json")
    )
    (view,) = [
        finished / "runs" / Path(part["features"]["backbone"]).stem / "features.h5"
        for part in record["parts"]
    ]
    values, labels, splits = read_features(view, record["layer"])
    assert sorted(set(splits)) == ["test", "train"]
    train, test = splits == "train", splits == "test"
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=metrics["settings"]["C"], max_iter=1000)
    )
    model.fit(values[train], labels[train])
    assert metrics["accuracy"] == model.score(values[test], labels[test])
    with (best / "predictions.csv").open(newline="") as stream:
        predicted = [row["predicted"] for row in csv.DictReader(stream)]
    assert predicted == model.predict(values[test]).tolist()


def test_the_summary_has_the_leaderboard_and_what_is_around_it(fresh, run):
    figures = run()
    assert json.loads((fresh / "runs" / "summary.json").read_text()) == figures
    board = json.loads((fresh / "runs" / "sweep.json").read_text())
    of_the_sweep = {"rows", "data"}  # which rows and files the table is of
    assert {key: figures[key] for key in board.keys() - of_the_sweep} == {
        key: value for key, value in board.items() if key not in of_the_sweep
    }
    assert len(figures["extractions"]) == 2
    assert (figures["out"], figures["best"]) == ("runs", "runs/best")


def test_an_audit_is_of_the_best_layer_of_that_backbone_alone(place, run):
    backbones = [{"name": f"{name}.keras", "layers": ["last"]} for name in ("tiny", "other")]
    figures = run(backbones=backbones, audit={}, select={"n": 3, "from_split": "test", "out": "n"})
    best = figures["configurations"][0]["layer"]
    assert best in {"tiny/last", "other/last"}
    assert (figures["audit"]["layer"], figures["audit"]["images"]) == (best, 40)
    assert figures["select"]["selected"] == 3


def test_a_run_tells_a_person_the_steps_and_the_best_head(place, capsys):
    assert call_main("run", "experiment.yaml") == 0
    told = capsys.readouterr()
    steps = [line for line in told.err.splitlines() if line.startswith("run: step")]
    assert [line.split(":")[1] for line in steps] == [f" step {n} of 4" for n in range(1, 5)]
    best = json.loads((place / "runs" / "sweep.json").read_text())["configurations"][0]
    (first,) = [line for line in told.out.splitlines() if line.startswith("1 ")]
    assert best["layer"] in first
    assert f"{best['accuracy_mean']:.4f}" in first


def test_what_run_fitted_predict_can_use(place, capsys):
    arguments = [
        *("predict", "--model", "runs/best", "--images", "photos"),
        *("--out", "new.csv", "--cache", "cache", "--json"),
    ]
    assert call_main(*arguments) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["images"], figures["computed"]) == (40, 0)


def test_a_backbone_that_moved_is_neither_computed_nor_lost(place, run, capsys):
    (place / "models").mkdir()
    (place / "tiny.keras").rename(place / "models" / "tiny.keras")
    backbones = [{"name": "models/tiny.keras", "layers": ["last:avg"]}]
    figures = run(backbones=backbones)
    assert count_computed(figures) == 0
    test_what_run_fitted_predict_can_use(place, capsys)


def test_an_interrupted_run_keeps_the_fits_that_were_finished(fresh, run, monkeypatch, capsys):
    add, n_added = Journal.add, 0

    def add_two(journal, record):
        nonlocal n_added
        if n_added == 2:
            signal.raise_signal(signal.SIGTERM)
        n_added += 1
        add(journal, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add_two)
        assert call_main("run", "experiment.yaml") == 143
    assert "interrupted" in capsys.readouterr().err
    assert not (fresh / "runs" / "summary.json").exists()
    figures = run()
    assert (figures["fitted"], len(figures["configurations"])) == (12 - 2, 6)


def test_a_killed_run_continues_and_ends_as_an_undisturbed_one(fresh, run):
    values = [round(0.01 * step, 2) for step in range(1, 21)]
    heads = [{"kind": "logreg", "C": values}]
    write_experiment(heads=heads)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "run", "experiment.yaml"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 120
    journal = fresh / "runs" / "journal.jsonl"
    while not journal.exists() or count_lines(journal) < 2:
        assert killed.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    n_done = count_lines(journal)
    assert 2 <= n_done < 120
    figures = run(heads=heads)
    assert (count_computed(figures), figures["fitted"]) == (0, 120 - n_done)
    undisturbed = run(heads=heads, out="others")
    assert undisturbed["fitted"] == 120

    def list_places(figures):
        return [
            (one["layer"], one["settings"], one["accuracy_mean"])
            for one in figures["configurations"]
        ]

    assert list_places(figures) == list_places(undisturbed)
    assert not list((fresh / "runs").rglob(".tmp-*"))


def count_lines(journal):
    return sum(line.endswith("}") for line in journal.read_text().splitlines())


def test_backbones_of_one_name_have_folders_of_their_own(fresh, run):
    (fresh / "more").mkdir()
    for name in ("other.keras", "other-2.keras"):
        shutil.copy(fresh / "other.keras", fresh / "more" / name)
    names = ["more/other-2.keras", "other.keras", "more/other.keras"]
    backbones = [{"name": name, "layers": ["last:max"]} for name in names]
    figures = run(backbones=backbones, heads=[{"kind": "logreg"}])
    assert {one["layer"] for one in figures["configurations"]} == {
        *("other-2/last:max", "other/last:max", "other-3/last:max")
    }
    assert [extraction["features"] for extraction in figures["extractions"]] == [
        *("runs/other-2/features.h5", "runs/other/features.h5", "runs/other-3/features.h5")
    ]


def test_paths_start_from_the_working_folder_and_not_from_the_file(fresh, run, monkeypatch):
    write_experiment(heads=[{"kind": "logreg"}])
    (fresh / "settings").mkdir()
    (fresh / "experiment.yaml").rename(fresh / "settings" / "experiment.yaml")
    assert call_main("run", "settings/experiment.yaml") == 0
    assert (fresh / "runs" / "summary.json").exists()


@pytest.fixture
def refused(capsys):
    def call(status=2, **replaced):
        write_experiment(**replaced)
        capsys.readouterr()
        assert call_main("run", "experiment.yaml") == status
        captured = capsys.readouterr()
        *others, answer = captured.err.splitlines()
        assert "experiment.yaml: " in answer
        assert captured.out == ""
        assert answer.startswith("permafrost: ")
        assert not any("Traceback" in line for line in others)
        return answer

    return call


def test_bad_input_is_one_line(fresh, refused):
    assert "absent" in refused(images="absent")
    assert "lsat" in refused(backbones=[{"name": "tiny.keras", "layers": ["lsat:avg"]}])
    assert "nothing is left for train" in refused(split={"test": 0.6, "val": 0.4})
    assert "tset=0.3" in refused(split="tset=0.3")
    assert "labels" in refused(labels="flder")
    assert "fewer than 30 folds" in refused(cv=30)
    (fresh / "file").write_text("precious")
    assert "out: cannot write into the folder 'file'" in refused(out="file")
    assert (fresh / "file").read_text() == "precious"
    assert "file" in refused(cache="file")
