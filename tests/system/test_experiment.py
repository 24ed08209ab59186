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

import h5py
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.helpers import ROOT
from tests.helpers.experiments import RIDGES, call_main, count_computed, write_experiment


def read_features(view, layer):
    with h5py.File(view) as file:
        labels, splits = (file[f"images/{name}"].asstr()[()] for name in ("label", "split"))
        return file[f"features/{layer}"][()], labels, splits


def test_every_head_is_fitted_on_every_layer_of_every_backbone(finished):
    outs = {str(path.parent.relative_to(finished)) for path in finished.rglob("model.json")}
    layers = ["tiny/first-avg", "tiny/last-avg", "other/last-max"]
    heads = ["logreg-C=0.01", "logreg-C=1"]
    assert outs == {f"runs/{layer}/{head}" for layer in layers for head in heads}


def test_a_run_equals_plain_scikit_learn_on_its_features(finished):
    values, labels, splits = read_features(finished / "runs/tiny/features.h5", "last:avg")
    assert sorted(set(splits)) == ["test", "train"]
    train, test = splits == "train", splits == "test"
    for c in (0.01, 1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        model.fit(values[train], labels[train])
        folder = finished / f"runs/tiny/last-avg/logreg-C={c}"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["accuracy"] == model.score(values[test], labels[test])
        assert metrics["settings"]["C"] == c
        with (folder / "predictions.csv").open(newline="") as stream:
            predicted = [row["predicted"] for row in csv.DictReader(stream)]
        assert predicted == model.predict(values[test]).tolist()


def test_the_summary_lists_all_heads_best_first(place, run):
    figures = run()
    assert json.loads((place / "runs" / "summary.json").read_text()) == figures
    ranks = [(-fit["cv_accuracy_mean"], fit["cv_log_loss_mean"]) for fit in figures["fits"]]
    assert len(ranks) == 6
    assert ranks == sorted(ranks)
    for fit in figures["fits"]:
        metrics = json.loads((place / fit["out"] / "metrics.json").read_text())
        assert metrics | {"out": fit["out"]} == fit


def test_a_run_tells_a_person_the_best_head(place, capsys):
    assert call_main("run", "experiment.yaml") == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, line in enumerate(lines) if "best first" in line) + 1
    best = json.loads((place / "runs" / "summary.json").read_text())["fits"][0]
    assert "by accuracy" in lines[first - 1]
    assert best["out"] in lines[first]
    assert f"{best['cv_accuracy_mean']:.4f}" in lines[first]


def test_a_run_of_many_heads_shows_those_that_matter(place, capsys):
    # Eight heads on three layers of two backbones.
    write_experiment(heads=[{"kind": "nearest_mean", "scale": ["none", "l2"]}, *RIDGES], cv=None)
    assert call_main("run", "experiment.yaml") == 0
    *_, last = lines = capsys.readouterr().out.splitlines()
    assert sum("  runs/" in line for line in lines) == 20
    assert last == "  and 4 more in runs/summary.json"


def test_what_run_fitted_predict_can_use(place, capsys):
    arguments = [
        *("predict", "--model", "runs/tiny/last-avg/logreg-C=1", "--images", "photos"),
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


def test_an_interrupted_run_keeps_the_heads_that_were_finished(fresh, run, monkeypatch, capsys):
    from permafrost.pipeline.experiments.run import fit

    n_fitted = 0

    def fit_two(options):
        nonlocal n_fitted
        if n_fitted == 2:
            signal.raise_signal(signal.SIGTERM)
        n_fitted += 1
        return fit(options)

    with monkeypatch.context() as patch:
        patch.setattr("permafrost.pipeline.experiments.run.fit", fit_two)
        assert call_main("run", "experiment.yaml") == 143
    assert "interrupted" in capsys.readouterr().err
    assert not (fresh / "runs" / "summary.json").exists()
    figures = run()
    assert (figures["fitted"], len(figures["fits"])) == (6 - 2, 6)


def test_a_killed_run_continues_and_ends_as_an_undisturbed_one(finished, fresh, run):
    values = [round(0.01 * step, 2) for step in range(1, 11)]
    heads = [{"kind": "logreg", "C": values}]
    write_experiment(heads=heads)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "run", "experiment.yaml"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 120
    while len(list((fresh / "runs").rglob("model.json"))) < 2:
        assert killed.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    n_done = len(list((fresh / "runs").rglob("model.json")))
    assert 2 <= n_done < 30
    figures = run(heads=heads)
    assert (figures["fitted"], len(figures["fits"])) == (30 - n_done, 30)
    for name in ("logreg-C=0.01", "logreg-C=0.1"):
        fit = json.loads((fresh / "runs/tiny/last-avg" / name / "metrics.json").read_text())
        values, labels, splits = read_features(fresh / "runs/tiny/features.h5", "last:avg")
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=fit["settings"]["C"], max_iter=1000)
        ).fit(values[splits == "train"], labels[splits == "train"])
        assert fit["accuracy"] == model.score(values[splits == "test"], labels[splits == "test"])
    assert not list((fresh / "runs").rglob(".tmp-*"))


def test_backbones_of_one_name_have_folders_of_their_own(fresh, run):
    (fresh / "more").mkdir()
    for name in ("other.keras", "other-2.keras"):
        shutil.copy(fresh / "other.keras", fresh / "more" / name)
    names = ["more/other-2.keras", "other.keras", "more/other.keras"]
    backbones = [{"name": name, "layers": ["last:max"]} for name in names]
    figures = run(backbones=backbones, heads=[{"kind": "logreg"}])
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
    assert "file" in refused(out="file", status=3)
    assert (fresh / "file").read_text() == "precious"
    assert "file" in refused(cache="file")
