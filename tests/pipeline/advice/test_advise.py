"""`advise` on digits whose layers are known to be good or bad, and on a network of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.pipeline.advice import probe
from permafrost.pipeline.advice.proposal import list_stage_ends
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.pipeline.options import FeatureOptions
from permafrost.stages.advice import scenario
from permafrost.stages.backbones import loading
from permafrost.stages.backbones.layers import BackboneCard, LayerCard
from tests.helpers.views import write_features

N = 200
DIGITS = load_digits()
PIXELS = DIGITS.data[:N].astype(np.float32)
NOISY = PIXELS + np.random.default_rng(0).normal(scale=12, size=PIXELS.shape).astype(np.float32)
LABELS = [f"digit {digit}" for digit in DIGITS.target[:N]]
SPLITS = ["test" if row % 5 == 0 else "train" for row in range(N)]


@pytest.fixture(autouse=True)
def one_probe(monkeypatch):
    """Try one value on each layer: the rest is the sweep's business."""
    grids = {"values": ("ridge", "alpha", (10.0,)), "classes": ("logreg", "C", (0.01,))}
    monkeypatch.setattr(probe, "GRIDS", grids)


def write_view(path, layers, *, backbone="vgg16", asked=None, **more):
    """Write a features.h5 of digits; the layers' order of depth is that of `asked`."""
    path.parent.mkdir(exist_ok=True, parents=True)
    origin = FeatureOptions(backbone=backbone, layers=tuple(asked or layers), size=(64, 48))
    given = {"labels": LABELS, "splits": SPLITS} | more
    write_features(path, layers, origin=origin.to_json(), **given)
    with h5py.File(path, "r+") as file:
        for layer in layers:
            attributes = file[f"features/{layer}"].attrs
            recipe = json.loads(attributes["recipe"])
            attributes["recipe"] = json.dumps(recipe | {"backbone": backbone})
    return path


@pytest.fixture
def advise(command, tmp_path):
    """Call ``advise``; returns the answer."""

    def call(*files, options=(), out=tmp_path / "advice"):
        named = [text for file in files for text in ("--features", file)]
        return command(
            *("advise", *named, "--cv", 3, "--jobs", 1, "--out", out, "--json", *options)
        )

    return call


def test_better_early_layers_are_another_domain_and_the_next_experiment_is_on_them(
    advise, tmp_path, monkeypatch
):
    images = DIGITS.images[:N, :, :, None].astype(np.uint8)
    layers = {"z:avg": PIXELS, "m:avg": NOISY / 2 + PIXELS / 2, "a:avg": NOISY, "pixels": images}
    view = write_view(tmp_path / "f.h5", layers)
    found = advise(view).figures
    (backbone,) = found["backbones"]
    assert backbone["layers"] == ["z:avg", "m:avg", "a:avg"]
    assert (backbone["domain"], backbone["peak"], found["size"]) == ("different", "z:avg", "small")
    assert 0 < backbone["interval"][0] < backbone["drop"] < backbone["interval"][1]
    by_layer = {one["layer"]: one for one in found["layers"]}
    assert list(by_layer)[-2:] == ["m:avg", "a:avg"]
    assert [by_layer[name]["depth"] for name in (*layers,)] == [1, 2, 3, None]
    logmes = [by_layer[name]["logme"] for name in ("z:avg", "m:avg", "a:avg")]
    assert logmes == sorted(logmes, reverse=True)
    assert by_layer["z:avg"]["head_weights"] == 65 * 10
    with (tmp_path / "advice" / "leaderboard.csv").open() as stream:
        board = {row["layer"]: float(row["accuracy_mean"]) for row in csv.DictReader(stream)}
    assert {name: one["score"] for name, one in by_layer.items()} == pytest.approx(board, abs=1e-5)
    for one in by_layer.values():
        assert one["interval"][0] < one["score"] < one["interval"][1]
    assert found == json.loads((tmp_path / "advice" / "advice.json").read_text())
    again = advise(view).figures
    assert again["fitted"] == 0
    assert again["layers"] == found["layers"]


def test_advice_that_was_given_already_leaves_its_files_as_they_are(advise, tmp_path):
    view = write_view(tmp_path / "f.h5", {"z:avg": PIXELS, "a:avg": NOISY})

    def list_times():
        files = (path for path in (tmp_path / "advice").rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files}

    assert advise(view, options=("--skip-status", 99)).status == 0
    before = list_times()
    assert {"advice.json", "experiment.yaml", "manifest.csv"} <= {path.name for path in before}
    assert advise(view, options=("--skip-status", 99)).status == 99
    assert list_times() == before


def test_the_next_experiment_is_of_the_same_rows_layers_and_folds(advise, tmp_path):
    columns = {"patient": [str(row // 2) for row in range(N)]}
    view = write_view(tmp_path / "f.h5", {"z:avg": PIXELS, "a:avg": NOISY}, columns=columns)
    found = advise(view, options=("--group", "patient", "--seed", 7)).figures
    experiment = read_experiment(Path(found["experiment"]))
    data = experiment.sweep.data
    assert (data.cv, data.seed, data.group, data.task) == (3, 7, "patient", "classification")
    (features,) = experiment.backbones.values()
    assert (features.backbone, features.size) == ("vgg16", (64, 48))
    assert (features.layers, experiment.sweep.layers) == (
        ("z:avg", "a:avg"),
        ("z:avg", "z:avg+a:avg"),
    )
    assert [one.kind for one in experiment.sweep.candidates] == ["logreg"] * 3 + ["mlp"]
    with (tmp_path / "advice" / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == LABELS
    assert [row["split"] for row in rows] == SPLITS
    assert [row["patient"] for row in rows] == columns["patient"]
    # It has no cache behind it.
    assert found["cost"]["new_layers"] == ["z:avg", "a:avg"]
    assert found["cost"]["linear_fits"] == 3 * 3 * 2


def test_a_last_layer_that_is_the_best_is_a_similar_domain(advise, tmp_path):
    view = write_view(tmp_path / "f.h5", {"z:avg": NOISY, "a:avg": PIXELS})
    assert advise(view).figures["domain"] == "similar"


def test_layers_of_one_name_are_told_apart_and_backbones_ranked(advise, tmp_path):
    images = DIGITS.images[:N, :, :, None].astype(np.uint8)
    files = [
        write_view(tmp_path / "vgg" / "features.h5", {"x:avg": NOISY, "pixels": images}),
        write_view(
            tmp_path / "net" / "features.h5",
            {"x:avg": PIXELS, "pixels": images},
            backbone="resnet50",
        ),
    ]
    found = advise(*files).figures
    assert [one["backbone"] for one in found["backbones"]] == ["resnet50", "vgg16"]
    assert {one["layer"] for one in found["layers"]} == {"vgg/x:avg", "net/x:avg", "vgg/pixels"}


def test_maps_are_averaged(advise, tmp_path):
    maps = np.repeat(PIXELS[:, None, None, :], 4, axis=1)
    found = advise(write_view(tmp_path / "f.h5", {"x": maps, "y:avg": NOISY})).figures
    assert found["layers"][0]["layer"] == "x:avg"
    assert found["layers"][0]["values"] == 64
    assert found["proposal"]["extracted"] == ["x"] + ["y:avg"] * (
        len(found["proposal"]["tried"]) > 1
    )


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("regression", [f"{row[20]:g}" for row in PIXELS]),
        (
            "multilabel",
            [";".join("ab"[n] for n in (0, 1) if row[20 + n] > 4) or ";" for row in PIXELS],
        ),
    ],
)
def test_values_and_tags_are_advised_on_too(advise, tmp_path, task, column):
    view = write_view(tmp_path / "f.h5", {"z:avg": PIXELS, "a:avg": NOISY}, columns={"it": column})
    found = advise(view, options=("--task", task, "--target", "it")).figures
    assert found["domain"] == "different"
    assert read_experiment(Path(found["experiment"])).sweep.data.target == "it"


def test_what_cannot_be_advised_on_is_one_line(advise, tmp_path):
    first = write_view(tmp_path / "a" / "f.h5", {"x:avg": PIXELS})
    numbers = range(1000, 1000 + N)
    other = write_view(tmp_path / "b" / "g.h5", {"x:avg": PIXELS}, numbers=numbers)
    alike = write_view(tmp_path / "c" / "a" / "f.h5", {"x:avg": PIXELS})
    images = DIGITS.images[:N, :, :, None].astype(np.uint8)
    bare = write_view(tmp_path / "h.h5", {"pixels": images})
    refused = {
        (first, other): "have no image in common",
        (first, alike): "shares the layer 'x:avg' and its own name with another file; rename one",
        (bare,): "but only pixels; extract some with --backbone",
        (tmp_path / "none.h5",): "there is no",
    }
    for files, reason in refused.items():
        answer = advise(*files)
        assert (answer.status, answer.err.splitlines()[-1].count(reason)) == (2, 1), answer.err


@pytest.fixture
def own(extract, tmp_path):
    """Features of a network of three convolutions, with the cache that knows it."""
    answer = extract(layers="last:avg,second:avg,pixels", out=tmp_path / "own.h5")
    assert answer.status == 0, answer.err
    return tmp_path / "own.h5"


def test_depth_weights_and_rates_come_from_the_cache_and_no_network_is_loaded(
    own, advise, command, monkeypatch, photos
):
    monkeypatch.setattr(loading, "load_backbone", lambda *_, **__: pytest.fail("loaded"))
    found = advise(own).figures
    (backbone,) = found["backbones"]
    assert backbone["layers"] == ["second:avg", "last:avg"]
    above = {one["layer"]: one["weights_above"] for one in found["layers"]}
    assert above == {"second:avg": 9 * 12 * 16 + 16, "last:avg": 0, "pixels": None}
    assert found["cost"]["images_per_second"] > 0
    assert found["cost"]["new_layers"] == []
    answer = command("run", found["experiment"], "--json")
    assert answer.figures["extractions"][0]["computed"] == 0


def test_many_images_are_for_networks_and_what_they_need_is_counted(own, advise, monkeypatch):
    monkeypatch.setattr(scenario, "LARGE_ROWS_PER_CLASS", 1)
    found = advise(own).figures
    assert found["size"] == "large"
    assert found["rows_per_1000_weights"] == pytest.approx(1000 * 12 / 1744)
    kinds = [head["kind"] for head in found["proposal"]["heads"]]
    assert kinds[:3] == ["logreg", "mlp", "finetune"]
    assert found["proposal"]["heads"][2]["layers"] == ["second"]
    assert found["cost"]["new_layers"] == ["second"]
    assert found["cost"]["bytes_to_write"] == 12 * 7 * 7 * 12 * 4
    assert found["cost"]["extract_seconds"] > 0
    assert found["cost"]["untimed"] == kinds[1:]
    assert found["cost"]["image_passes"] == 2 * 20 * 12 * 2
    read_experiment(Path(found["experiment"]))


def test_one_layer_has_the_other_depths_probed_first(extract, advise, tmp_path):
    extract(layers="last:avg", out=tmp_path / "one.h5")
    found = advise(tmp_path / "one.h5").figures
    assert found["domain"] == "undecided"
    assert found["proposal"]["extracted"] == ["first:avg", "last:avg"]


def test_of_each_resolution_the_last_layer_is_probed_and_padding_is_none():
    extents = {"conv": 224, "pad": 113, "down": 112, "up": 112, "pad_2": 57, "half": 56, "end": 7}
    cards = {
        name: LayerCard(shape=(extent, extent, 4), digest=name) for name, extent in extents.items()
    }
    card = BackboneCard(
        name="net",
        size=(224, 224),
        channels=3,
        scales_input=False,
        takes_integers=False,
        layers=cards | {"pooled": LayerCard(shape=(4,), digest="pooled")},
    )
    assert list_stage_ends(card) == ["conv", "up", "half", "end"]
