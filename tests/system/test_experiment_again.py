"""An experiment run again does only what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.helpers.experiments import SIDE, call_main, count_computed

SMALL = {
    "backbones": [{"name": "tiny.keras", "layers": ["last:avg"]}],
    "heads": [{"kind": "logreg"}],
}
MLP = {"kind": "mlp", "hidden": [[8], [8, 4]], "epochs": 2}


def count(figures):
    """Count images computed, fits of now, and what was compared."""
    return count_computed(figures), figures["fitted"], len(figures["configurations"])


def list_times(*files):
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_run_fits_and_computes_nothing(place, run):
    before = list_times(place / "runs/best/head/head.json", place / "runs/journal.jsonl")
    assert count(run()) == (0, 0, 6)
    assert list_times(*before) == before


def run_without(*modules):
    """Run the experiment in a process of its own, which fails if it imports any of these."""
    code = (
        "import sys\nfrom permafrost.pipeline.cli.main import main\n"
        "status = main(['run', 'experiment.yaml'])\n"
        f"sys.exit(status or str(set({modules}) & sys.modules.keys()).replace('set()', '') or 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_a_finished_experiment_imports_nothing_that_computes(place):
    run_without("tensorflow", "keras", "sklearn", "scipy", "skops", "pandas", "distributed")


def test_logreg_heads_on_cached_features_import_no_tensorflow(fresh):
    run_without("tensorflow", "keras")
    assert (fresh / "runs/best/model.json").exists()


def test_mlp_heads_that_are_fitted_already_import_no_tensorflow(fresh, run):
    experiment = SMALL | {"heads": [MLP]}
    experiment |= {"predict": {"images": "photos", "out": "new.csv"}, "export": "m.keras"}
    figures = run(**experiment)
    tried = sorted(one["settings"]["hidden"] for one in figures["configurations"])
    assert tried == [[8], [8, 4]]
    assert figures["fitted"] == 2 * 2
    before = list_times(fresh / "new.csv", fresh / "m.keras")
    run_without("tensorflow", "keras", "sklearn", "scipy")
    again = run(**experiment)
    assert again["fitted"] == 0
    assert list_times(*before) == before
    (one,), (other,) = figures["predictions"], again["predictions"]
    assert (one["images"], one["accuracy"]) == (other["images"], other["accuracy"])
    assert figures["export"] == again["export"]


def test_one_more_value_fits_just_that_head(place, run):
    figures = run(heads=[{"kind": "logreg", "C": [0.01, 0.1, 1]}])
    assert count(figures) == (0, 3 * 2, 9)


def test_one_changed_setting_fits_just_that_head(place, run):
    figures = run(heads=[{"kind": "logreg", "C": [0.01, 2]}])
    assert count(figures) == (0, 3 * 2, 6)


def test_one_more_layer_fits_just_on_that(place, run):
    layers = ["first:avg", "last:avg", "last:max"]
    figures = run(
        backbones=[
            {"name": "tiny.keras", "layers": layers},
            {"name": "other.keras", "layers": ["last:max"]},
        ]
    )
    assert count(figures) == (40, 2 * 2, 8)


@pytest.mark.parametrize("change", [{"seed": 5}, {"cv": 3}, {"split": {"test": 0.4, "seed": 1}}])
def test_another_seed_folds_or_split_fits_all_again(place, run, change):
    best = place / "runs/best/model.json"
    run(**SMALL)
    before = json.loads(best.read_text())["fit"]
    assert count(run(**SMALL, **change)) == (0, change.get("cv", 2), 1)
    after = json.loads(best.read_text())["fit"]
    # The folds are not what the best is fitted on.
    assert (after == before) == ("cv" in change)
    assert run(**SMALL, **change)["fitted"] == 0


def test_predictions_follow_their_images_and_nothing_else_is_done(place, run):
    shutil.copytree(place / "photos/china", place / "new")
    experiment = SMALL | {"predict": {"images": "new", "out": "new.csv"}}
    (first,) = run(**experiment)["predictions"]
    (place / "new/0.jpg").unlink()
    figures = run(**experiment)
    (second,) = figures["predictions"]
    assert (first["images"], second["images"]) == (20, 19)
    assert count(figures) == (0, 0, 1)


def test_predictions_and_a_model_that_were_deleted_or_edited_are_made_again(place, run):
    experiment = SMALL | {"predict": [{"images": "photos", "out": "new.csv"}], "export": "m.keras"}
    run(**experiment)
    text = (place / "new.csv").read_text()
    (place / "new.csv").write_text(text + "mine")
    (place / "m.keras").unlink()
    run(**experiment)
    assert (place / "new.csv").read_text() == text
    assert (place / "m.keras").exists()


def test_another_image_is_computed_and_all_heads_fitted_again(place, run):
    Image.effect_noise((SIDE, SIDE), 50).convert("RGB").save(place / "photos/china/new.jpg")
    figures = run()
    assert (count_computed(figures), figures["fitted"]) == (2, 12)


def test_a_renamed_image_is_not_computed_but_named_anew_in_the_predictions(place, run):
    for path in list((place / "photos/china").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    figures = run()
    assert (count_computed(figures), figures["fitted"]) == (0, 12)
    assert "china/renamed-" in (place / "runs/best/predictions.csv").read_text()


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv", "model.json"])
def test_a_file_that_was_deleted_is_made_again(place, run, name):
    folder = place / "runs/best"
    before = (folder / "predictions.csv").read_text()
    (folder / name).unlink()
    assert run()["fitted"] == 0
    assert (folder / name).exists()
    assert (folder / "predictions.csv").read_text() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
@pytest.mark.parametrize("name", ["metrics.json", "model.json"])
def test_a_damaged_result_is_made_again(place, run, name, content):
    file = place / "runs/best" / name
    run()
    before = json.loads(file.read_text())
    file.write_bytes(content)
    assert run()["fitted"] == 0
    after = json.loads(file.read_text())
    assert after | {"seconds": 0} == before | {"seconds": 0}


def test_a_run_with_nothing_new_leaves_every_file_as_it_is_and_says_so(place, run):
    experiment = SMALL | {"predict": {"images": "photos", "out": "runs/n.csv"}}
    experiment |= {"export": "runs/m.keras"}
    run(**experiment)
    before = list_times(*(path for path in (place / "runs").rglob("*") if path.is_file()))
    assert len(before) == 16
    assert call_main("run", "experiment.yaml", "--skip-status", "99") == 99
    assert list_times(*(path for path in (place / "runs").rglob("*") if path.is_file())) == before
    (place / "runs/summary.json").unlink()
    assert call_main("run", "experiment.yaml", "--skip-status", "99") == 0


def test_what_an_experiment_no_longer_asks_for_leaves_its_summary(place, run):
    run(**SMALL, export="runs/m.keras")
    assert json.loads((place / "runs/summary.json").read_text())["export"]
    run(**SMALL)
    assert json.loads((place / "runs/summary.json").read_text())["export"] is None
