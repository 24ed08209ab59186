from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.experiments.demo import NEXT_COMMANDS, Choice, DemoResult, Trial
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.pipeline.experiments.schema import ExperimentSection
from permafrost.pipeline.extraction.summary import ExtractSummary
from tests.helpers import ROOT

LOGREG = "logistic regression on frozen features"


@dataclass(frozen=True, slots=True)
class DemoRun:
    out: Path
    figures: dict[str, Any]
    stderr: str

    def trial(self, method: str, n_train: int) -> dict[str, Any]:
        (found,) = (
            trial
            for trial in self.figures["trials"]
            if (trial["method"], trial["n_train"]) == (method, n_train)
        )
        return dict(found)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    done = subprocess.run(
        [sys.executable, "run.py", "demo", "--json", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return DemoRun(out, json.loads(done.stdout.splitlines()[-1]), done.stderr)


def test_frozen_features_of_other_digits_tell_new_digits_apart(demo: DemoRun) -> None:
    assert demo.trial(LOGREG, 627)["accuracy"] > 0.98
    assert demo.trial("MLP on frozen features", 627)["accuracy"] > 0.97
    assert demo.trial("the same network from scratch", 627)["accuracy"] > 0.97


def test_ten_images_a_class_are_enough_for_a_fair_head(demo: DemoRun) -> None:
    few = [trial for trial in demo.figures["trials"] if trial["n_train"] == 50]
    assert len(few) == 3
    assert all(trial["accuracy"] > 0.9 for trial in few)
    assert {trial["n_test"] for trial in demo.figures["trials"]} == {269}


def test_the_second_dataset_computes_nothing(demo: DemoRun) -> None:
    first, second = demo.figures["extractions"]
    assert (first["images"], first["computed"], first["failed"]) == (896, 896, 0)
    assert (second["images"], second["computed"], second["reused"]) == (319, 0, 319)


def test_plain_h5py_reads_what_plain_keras_would_compute(demo: DemoRun) -> None:
    from permafrost.stages.frameworks.start import start_tensorflow

    start_tensorflow()
    import keras

    model = keras.models.load_model(demo.out / "backbone.keras")
    cut = keras.Model(model.layers[0].input, model.get_layer("pool").output)
    with h5py.File(demo.out / "features.h5") as file:
        paths = file["images/path"].asstr()[::50]
        features = file["features/pool:flatten"][::50]
        assert len(file["features/pool:flatten"]) == demo.figures["extractions"][0]["images"]
    pixels = [
        keras.utils.img_to_array(
            keras.utils.load_img(demo.out / "digits-5-9" / path, color_mode="grayscale")
        )
        for path in paths
    ]
    expected = cut.predict(np.stack(pixels), verbose=0).reshape(len(paths), -1)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("view", "n_train"), [("features.h5", 627), ("features-few.h5", 50)])
def test_logreg_is_as_good_as_a_plain_scikit_learn_pipeline(
    demo: DemoRun, view: str, n_train: int
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with h5py.File(demo.out / view) as file:
        features = file["features/pool:flatten"][()]
        labels = file["images/label"].asstr()[()]
        test = file["images/split"].asstr()[()] == "test"
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    plain.fit(features[~test], labels[~test])
    assert np.count_nonzero(~test) == n_train
    assert demo.trial(LOGREG, n_train)["accuracy"] == plain.score(features[test], labels[test])


def test_the_exported_model_tells_as_many_digits_as_the_sweeps_best_head(demo: DemoRun) -> None:
    import keras

    model = keras.saving.load_model(demo.out / "classifier.keras", safe_mode=True)
    height, width, channels = model.input_shape[1:]
    files = sorted((demo.out / "digits-5-9" / "test").glob("*/*.png"))
    images = [
        keras.utils.load_img(
            file,
            target_size=(height, width),
            interpolation="bilinear",
            color_mode="rgb" if channels == 3 else "grayscale",
        )
        for file in files
    ]
    pixels = np.stack([keras.utils.img_to_array(image) for image in images]).astype(np.uint8)
    found = model.predict(pixels, verbose=0).argmax(axis=1) + 5
    choice = demo.figures["choice"]
    assert np.mean(found == [int(file.parent.name) for file in files]) == choice["accuracy"]
    assert choice["accuracy"] > 0.95
    assert (choice["n_tried"], choice["n_folds"]) == (3 + 1 + 1, 5)


def test_everything_lies_where_it_says(demo: DemoRun) -> None:
    files = {file.relative_to(demo.out).parts[0] for file in demo.out.rglob("*") if file.is_file()}
    expected = {"digits-0-4", "digits-5-9", "backbone.keras", "cache", "heads", "sweep"}
    assert files == expected | {"features.h5", "features-few.h5", "classifier.keras"}
    assert len(list(demo.out.glob("digits-*/*/*/*.png"))) == 1797
    text = _result(demo).describe()
    assert all(name in text for name in files)


def test_the_table_shows_every_accuracy(demo: DemoRun) -> None:
    lines = _result(demo).describe().splitlines()
    for trial in demo.figures["trials"]:
        (row,) = (line for line in lines if line.startswith(trial["method"]))
        assert f"{trial['accuracy']:.3f}" in row.split()
    assert [word for word in lines[0].split()[4:] if word.isdecimal()] == ["269", "50", "627"]


def test_nothing_but_one_line_a_step_is_said_on_the_way(demo: DemoRun) -> None:
    lines = demo.stderr.splitlines()
    progress = ("images/s", "fits/s")
    others = [x for x in lines if not any(unit in x for unit in progress)]
    assert [x for x in others if not x.startswith("demo: ")] == []


def test_a_file_in_the_folders_place_is_one_line(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        answer = command("demo", "--out", out)
        assert answer.status == 2
        assert answer.err.count("\n") == 1
        assert "--out" in answer.err
    assert file.read_text() == "mine"


def test_the_commands_to_type_next_are_valid() -> None:
    for line in NEXT_COMMANDS:
        python, script, *arguments = shlex.split(line)
        assert (python, script) == ("python", "run.py")
        parsed = build_parser().parse_args(arguments)
        if parsed.command == "run":
            assert (ROOT / parsed.experiment).is_file()


def test_the_example_experiment_tries_four_heads_on_each_layer() -> None:
    experiment = read_experiment(ROOT / "examples" / "experiment.yaml")
    heads = [(one.kind, one.settings) for one in experiment.sweep.candidates]
    assert [kind for kind, _ in heads] == ["logreg"] * 3 + ["mlp"]
    assert [settings.C for _, settings in heads[:3]] == [0.01, 0.1, 1]
    assert (heads[3][1].hidden, heads[3][1].dropout) == ((256,), 0.6)
    assert experiment.sweep.layers == ("block2_pool", "block5_pool:avg")
    dataset = experiment.dataset
    assert (dataset.images, dataset.labels, experiment.sweep.data.cv) == ("photos/", "folder", 5)


def test_the_example_experiment_shows_every_key() -> None:
    words = set(re.findall(r"\w+", (ROOT / "examples" / "experiment.yaml").read_text()))
    assert set(ExperimentSection.model_fields) <= words


def test_the_example_of_a_regression_names_column_and_heads() -> None:
    sweep = read_experiment(ROOT / "examples" / "regression.yaml").sweep
    assert (sweep.data.task, sweep.data.target) == ("regression", "price")
    assert [one.kind for one in sweep.candidates] == ["ridge"] * 3 + ["knn"] * 2 + ["mlp"] * 2


def _result(demo: DemoRun) -> DemoResult:
    figures = demo.figures
    return DemoResult(
        trials=[Trial(**trial) for trial in figures["trials"]],
        choice=Choice(**figures["choice"]),
        extractions=[ExtractSummary(**summary) for summary in figures["extractions"]],
        seconds=figures["seconds"],
        out=demo.out,
    )
