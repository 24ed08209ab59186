"""An experiment run again does only what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.helpers.experiments import SIDE, count_computed

SMALL = {
    "backbones": [{"name": "tiny.keras", "layers": ["last:avg"]}],
    "heads": [{"kind": "logreg"}],
}
MLP = {"kind": "mlp", "hidden": [[8], [8, 4]], "epochs": 2}


def list_outs(figures):
    return sorted(fit["out"] for fit in figures["fits"])


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
