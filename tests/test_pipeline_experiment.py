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
import yaml
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.pipeline.cli.main import main
from permafrost.pipeline.experiments.run import list_fits
from permafrost.pipeline.experiments.schema import read_experiment
from permafrost.pipeline.options import RunOptions

SIDE = 40
ROOT = Path(__file__).parents[1]
HEADS = [{"kind": "logreg", "C": [0.01, 1]}]
SMALL = {
    "backbones": [{"name": "tiny.keras", "layers": ["last:avg"]}],
    "heads": [{"kind": "logreg"}],
}
RIDGES = [{"kind": "ridge", "alpha": [1, 10, 100], "class_weight": ["none", {"china": 2}]}]
MLP = {"kind": "mlp", "hidden": [[8], [8, 4]], "epochs": 2}


def write_crops(root, *, n_each):
    """Cut scikit-learn's two photographs into JPEG files, of which no two are alike."""
    for label in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{label}.jpg"))
        (root / label).mkdir(parents=True)
        for number in range(n_each):
            left, top = 13 * number % (640 - SIDE), 17 * number % (427 - SIDE)
            crop = photo.crop((left, top, left + SIDE, top + SIDE))
            crop.save(root / label / f"{number}.jpg", quality=90)


def write_backbone(file, *, seed):
    from permafrost.stages.frameworks.start import start_tensorflow

    start_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="first"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="last"),
        ],
        name="mobilenet_tiny",
    ).save(file)


def write_experiment(**replaced):
    """Write experiment.yaml in the current folder."""
    content = {
        "images": "photos",
        "split": {"test": 0.3, "seed": 1},
        "cache": "cache",
        "backbones": [
            {"name": "tiny.keras", "layers": ["first:avg", "last:avg"]},
            {"name": "other.keras", "layers": ["last:max"]},
        ],
        "heads": HEADS,
        "cv": 2,
        "out": "runs",
    }
    Path("experiment.yaml").write_text(yaml.safe_dump(content | replaced))


def call_main(*arguments):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([*arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a whole experiment once; each test has a copy of its own."""
    home = tmp_path_factory.mktemp("experiment")
    write_crops(home / "photos", n_each=20)
    write_backbone(home / "tiny.keras", seed=1)
    write_backbone(home / "other.keras", seed=2)
    before = Path.cwd()
    os.chdir(home)
    try:
        write_experiment()
        assert call_main("run", "experiment.yaml") == 0
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """Work in a copy of the finished experiment's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(place):
    """Work where features are cached but nothing is fitted."""
    shutil.rmtree(place / "runs")
    return place


@pytest.fixture
def run(capsys):
    """Write and run an experiment; returns the figures that were printed."""

    def call(**replaced):
        write_experiment(**replaced)
        capsys.readouterr()
        status = call_main("run", "experiment.yaml", "--json")
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out.splitlines()[-1], parse_constant=pytest.fail)

    return call


def count_computed(figures):
    return sum(extraction["computed"] for extraction in figures["extractions"])


def list_outs(figures):
    return sorted(fit["out"] for fit in figures["fits"])


def read_features(view, layer):
    with h5py.File(view) as file:
        labels, splits = (file[f"images/{name}"].asstr()[()] for name in ("label", "split"))
        return file[f"features/{layer}"][()], labels, splits


# What a run leaves


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


# Only what is missing


def test_a_second_run_fits_and_computes_nothing(place, run):
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("head.json")}
    figures = run()
    assert (count_computed(figures), figures["fitted"], len(figures["fits"])) == (0, 0, 6)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def run_without_tensorflow():
    """Run the experiment in a process of its own, which fails if it imports TensorFlow."""
    code = (
        "import sys\nfrom permafrost.pipeline.cli.main import main\n"
        "status = main(['run', 'experiment.yaml'])\n"
        "sys.exit(status or 'tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_logreg_heads_on_cached_features_import_no_tensorflow(fresh):
    run_without_tensorflow()
    assert len(list((fresh / "runs").rglob("model.json"))) == 6


def test_mlp_heads_that_are_fitted_already_import_no_tensorflow(fresh, run):
    experiment = SMALL | {"heads": [MLP], "cv": None}
    figures = run(**experiment)
    assert list_outs(figures) == [
        *("runs/tiny/last-avg/mlp-epochs=2-hidden=8", "runs/tiny/last-avg/mlp-epochs=2-hidden=8-4")
    ]
    assert figures["fitted"] == 2
    run_without_tensorflow()
    assert run(**experiment)["fitted"] == 0


def test_one_more_value_fits_just_that_head(place, run):
    figures = run(heads=[{"kind": "logreg", "C": [0.01, 0.1, 1]}])
    assert (count_computed(figures), figures["fitted"], len(figures["fits"])) == (0, 3, 9)


def test_one_changed_setting_fits_just_that_head(place, run):
    figures = run(heads=[{"kind": "logreg", "C": [0.01, 2]}])
    assert (count_computed(figures), figures["fitted"], len(figures["fits"])) == (0, 3, 6)


def test_one_more_layer_fits_just_on_that(place, run):
    layers = ["first:avg", "last:avg", "last:max"]
    figures = run(
        backbones=[
            {"name": "tiny.keras", "layers": layers},
            {"name": "other.keras", "layers": ["last:max"]},
        ]
    )
    assert (figures["fitted"], len(figures["fits"])) == (2, 8)
    assert count_computed(figures) == 40


@pytest.mark.parametrize("change", [{"seed": 5}, {"cv": 3}, {"split": {"test": 0.4, "seed": 1}}])
def test_another_seed_folds_or_split_fits_all_again(place, run, change):
    run(**SMALL)
    figures = run(**SMALL, **change)
    assert (count_computed(figures), figures["fitted"]) == (0, 1)
    assert run(**SMALL, **change)["fitted"] == 0
    assert run(**SMALL)["fitted"] == 1


def test_another_image_is_computed_and_all_heads_fitted_again(place, run):
    Image.effect_noise((SIDE, SIDE), 50).convert("RGB").save(place / "photos/china/new.jpg")
    figures = run()
    assert (count_computed(figures), figures["fitted"]) == (2, 6)


def test_a_renamed_image_is_not_computed_but_named_anew_in_the_predictions(place, run):
    for path in list((place / "photos/china").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    figures = run()
    assert (count_computed(figures), figures["fitted"]) == (0, 6)
    assert "china/renamed-" in (place / figures["fits"][0]["out"] / "predictions.csv").read_text()


def test_a_backbone_that_moved_is_neither_computed_nor_lost(place, run, capsys):
    (place / "models").mkdir()
    (place / "tiny.keras").rename(place / "models" / "tiny.keras")
    backbones = [{"name": "models/tiny.keras", "layers": ["last:avg"]}]
    figures = run(backbones=backbones)
    assert count_computed(figures) == 0
    test_what_run_fitted_predict_can_use(place, capsys)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv", "model.json"])
def test_a_file_that_was_deleted_is_made_again(place, run, name):
    folder = place / "runs/tiny/last-avg/logreg-C=1"
    before = (folder / "predictions.csv").read_text()
    (folder / name).unlink()
    assert run()["fitted"] == 1
    assert (folder / name).exists()
    assert (folder / "predictions.csv").read_text() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
@pytest.mark.parametrize("name", ["metrics.json", "model.json"])
def test_a_damaged_result_is_made_again(place, run, name, content):
    file = place / "runs/tiny/last-avg/logreg-C=1" / name
    run()
    before = json.loads(file.read_text())
    file.write_bytes(content)
    assert run()["fitted"] == 1
    after = json.loads(file.read_text())
    assert after | {"seconds": 0} == before | {"seconds": 0}


# Stopped


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


# Folders


def name_fits(layers, heads, tmp_path):
    file = tmp_path / "names.yaml"
    backbones = [{"name": "vgg16", "layers": layers}]
    content = {"images": "a", "backbones": backbones, "heads": heads, "out": "runs"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    experiment = read_experiment(file)
    fits = list_fits(experiment, experiment.backbones[0], tmp_path / "features.h5", RunOptions())
    return [str(fit.out.relative_to(tmp_path)) for fit in fits]


def test_layers_and_heads_that_read_alike_have_folders_of_their_own(tmp_path):
    heads = [{"kind": "logreg"}]
    layers = ["a/b", "a-b", "a b", "..", "卷积"]
    assert name_fits(layers, heads, tmp_path) == [
        *("a-b/logreg", "a-b-2/logreg", "a-b-3/logreg", "unnamed/logreg", "unnamed-2/logreg")
    ]
    assert name_fits(["a:avg", "a-avg"], heads, tmp_path) == ["a-avg/logreg", "a-avg-2/logreg"]
    ridges = [f"ridge-alpha={alpha}-class_weight=china-2" for alpha in (1, 10, 100)]
    assert [f"a/{name}" for name in ridges] == name_fits(["a"], RIDGES, tmp_path)[1::2]
    hidden = [{"kind": "mlp", "hidden": [[256], [256, 128]]}]
    assert name_fits(["a"], hidden, tmp_path) == ["a/mlp-hidden=256", "a/mlp-hidden=256-128"]


def test_the_same_head_twice_is_fitted_once(tmp_path):
    heads = [{"kind": "logreg", "C": [1, 1], "scale": "l2"}]
    heads += [{"kind": "logreg", "scale": "l2", "C": 1}]
    assert name_fits(["a", "a:none"], heads, tmp_path) == ["a/logreg-C=1-scale=l2"]


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


# Bad input that only the run finds


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
