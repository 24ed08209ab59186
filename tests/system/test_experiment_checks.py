"""What is wrong with an experiment is told before the first backbone runs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from permafrost.pipeline.computing import compute
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.check import check_experiment
from permafrost.pipeline.experiments.experiment import read_experiment
from tests.helpers.experiments import call_main, write_experiment
from tests.helpers.users import User, needs_root, shared_folder

TINY = {"name": "tiny.keras", "layers": ["first", "last:avg"]}


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Run an experiment with nothing cached; returns the line that told what is wrong with it."""
    shutil.rmtree(place / "runs")
    shutil.rmtree(place / "cache")
    n_built = 0
    build = compute.build_program

    def count_and_build(*arguments):
        nonlocal n_built
        n_built += 1
        return build(*arguments)

    monkeypatch.setattr(compute, "build_program", count_and_build)

    def call(*, second=None, **replaced):
        backbones = [TINY, {"name": "other.keras", "layers": ["last:max"]} | (second or {})]
        write_experiment(**({"backbones": backbones} | replaced))
        capsys.readouterr()
        assert call_main("run", "experiment.yaml") == 2
        told = capsys.readouterr()
        assert told.out == ""
        *_, answer = told.err.splitlines()
        assert answer.startswith("permafrost: experiment.yaml: ")
        assert n_built == 0
        assert not list(place.rglob("shard-*")) + list(place.rglob("features.h5"))
        return answer.removeprefix("permafrost: experiment.yaml: ")

    return call


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"name": "othr.keras"}, "backbones.1: there is no model file 'othr.keras'"),
        ({"layers": ["lsat:max"]}, "backbones.1: unknown layer 'lsat' of mobilenet_tiny; did you"),
        ({"layers": ["last:mxa"]}, "backbones.1: unknown pooling 'mxa'"),
        ({"weights": "absent.h5"}, "backbones.1: --weights 'absent.h5'"),
        ({"size": 2}, "backbones.1: "),
        ({"preprocess": "tfx"}, "backbones.1: unknown preprocessing 'tfx'; did you mean 'tf'?"),
        ({"precision": "float16"}, "backbones.1: --precision float16 needs a GPU"),
        ({"name": "./tiny.keras"}, "backbones.1: './tiny.keras' is there already, as backbones.0"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_of_the_second_backbone(refused, second, says):
    assert refused(second=second).startswith(says)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"images": "absent"}, "absent"),
        ({"labels": "flder"}, "'flder'"),
        ({"labels": "csv:absent.csv"}, "absent.csv"),
        ({"labels": "filename:^(x)"}, "x"),
        ({"split": "tset=0.3"}, "tset=0.3"),
        ({"split": {"test": 0.6, "val": 0.4}}, "nothing is left for train"),
        ({"target": "age"}, "the images have no column 'age'; they have: 'path'"),
        ({"group": "patient"}, "patient"),
        ({"task": "regression", "heads": [{"kind": "ridge"}]}, "'china'"),
        ({"cv": 30}, "fewer than 30 folds"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_of_images_labels_and_folds(refused, replaced, says):
    assert says in refused(**replaced)


def test_of_labels_that_are_all_alike(refused, place):
    shutil.rmtree(place / "photos/flower")
    assert "labelled 'china'" in refused()


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"heads": [{"kind": "ridge"}, {"kind": "logerg"}]}, "heads.1: unknown head 'logerg'"),
        ({"heads": [{"kind": "logreg", "c": 1}]}, "heads.0: unknown setting 'c'"),
        ({"heads": [{"kind": "logreg", "class_weight": {"chnia": 2}}]}, "unknown class 'chnia'"),
        ({"layers": ["first:avg+lst:max"]}, "has no layer 'lst:max'; it has: first, last:avg"),
        ({"layers": ["othr/last:max"]}, "has no layer 'othr/last:max'"),
        ({"layers": ["last:avg:max"]}, "avg:max"),
        ({"poolings": ["agv"]}, "unknown pooling 'agv'; did you mean 'avg'?"),
        ({"jobs": 0}, "--jobs 0: at least 1 is needed"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_of_heads_and_layers(refused, replaced, says):
    assert says in refused(**replaced)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"out": "file"}, "out: cannot write into the folder 'file'"),
        ({"predict": {"images": "absent", "out": "new.csv"}}, "predict.0.images: "),
        ({"predict": {"images": "photos", "out": "photos"}}, "predict.0.out: --out 'photos' is a"),
        ({"predict": {"images": "photos", "out": "file/new.csv"}}, "predict.0.out: cannot write"),
        (
            {"predict": [{"images": x, "out": "b"} for x in "ac"]},
            "predict.1.out: 'b' is written by",
        ),
        ({"predict": {"imges": "a", "out": "b"}}, "unknown key 'imges' (predict.0.imges); did you"),
        ({"export": "model.h5"}, "export: cannot export to 'model.h5'"),
        ({"export": "file/model.keras"}, "export: cannot write into the folder 'file'"),
        ({"export": "m.keras", "heads": [{"kind": "knn"}]}, "export: knn consists of"),
        ({"export": "m.keras", "layers": ["last:avg+other/last:max"]}, "export: one model takes"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_of_what_is_written(refused, place, replaced, says):
    (place / "file").write_text("precious")
    second = {"resize": "nearest"}
    assert refused(second=second, **replaced).startswith(says)
    assert (place / "file").read_text() == "precious"


@needs_root
def test_of_a_folder_of_others(place):
    write_experiment(out="runs")
    experiment = read_experiment(place / "experiment.yaml")
    with shared_folder(group=0, mode=0o755) as folder:
        sweep = replace(experiment.sweep, out=folder / "runs")

        def check():
            with pytest.raises(PipelineError, match="out: cannot write into the folder"):
                check_experiment(replace(experiment, sweep=sweep))

        User(uid=12345, group=12345).run(check)


def test_an_image_that_one_backbone_cannot_take_is_left_out_of_the_comparison(fresh, run):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(fresh / "photos/china/black.jpg")
    (fresh / "photos/china/broken.jpg").write_bytes(b"no image")
    figures = run()
    assert [one["failed"] for one in figures["extractions"]] == [1, 1]
    assert figures["best_metrics"]["n_train"] + figures["best_metrics"]["n_test"] == 41


def test_a_layer_of_each_of_two_backbones_is_joined(fresh, run):
    figures = run(layers=["last:avg+other/last:max", "last:avg"], heads=[{"kind": "ridge"}])
    layers = {one["layer"] for one in figures["configurations"]}
    assert layers == {"last:avg+other/last:max", "last:avg"}


def test_a_manifest_poolings_and_materialized_files_are_what_they_are_elsewhere(fresh, run):
    assert call_main("index", "photos", "--out", "manifest.csv", "--split", "test=0.3") == 0
    write = {"manifest": "manifest.csv", "split": None, "materialize": True, "jobs": 2}
    backbones = [{"name": "tiny.keras", "layers": ["first"]}]
    figures = run(**write, backbones=backbones, poolings=["avg", "max"], images=None)
    layers = {one["layer"] for one in figures["configurations"]}
    assert layers == {"first:avg", "first:max"}
    shutil.rmtree(fresh / "cache")
    head = ["--layer", "first:avg", "--head", "ridge", "--out", "alone"]
    assert call_main("fit", "--features", "runs/tiny/features.h5", *head) == 0
