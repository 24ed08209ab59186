"""Heads on several views of each image: learnt from all, told of one or of their mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.pipeline.models.fit import open_bench
from permafrost.pipeline.models.measure import plan_trial
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.evaluation.folds import make_folds
from permafrost.stages.heads.networks.held_out import choose_held_out
from permafrost.stages.matrices import budget, reduction
from permafrost.stages.matrices.matrix import Matrix, Rows
from tests.helpers.digits import read_table
from tests.helpers.sweeps import read_rows
from tests.helpers.views import LAYER, write_features

N = 60
IMAGES = load_digits().images[:N].astype(np.float32)
LABELS = np.array([f"digit {number % 3}" for number in load_digits().target[:N]])
SPLITS = np.array(["train", "test", "train", "", "val"] * (N // 5))
NO_TEST = np.array(["train"] * N)
FITTED = np.isin(SPLITS, ("train", ""))
WIDTHS = {"narrow": 1, "wide": 8}  # wide rows have over 4 times as many features as there are


def see(images: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Make features of images: as many times 64 values, neither linear nor symmetric."""
    flat = images.reshape(len(images), -1)
    return np.hstack([np.sin(flat * (1 + number) / 9) for number in range(width)])


def write(
    path: Path,
    *,
    splits: NDArray[np.str_] = SPLITS,
    width: int = 1,
    views: tuple[str, ...] = ("", "@hflip"),
) -> Path:
    seen = dict(zip(("", "@hflip"), (IMAGES, IMAGES[:, :, ::-1]), strict=True))
    layers = {f"{LAYER}{view}": see(seen[view], width) for view in views}
    # Two images come twice: each is one image.
    numbers = [*range(N - 2), 0, 1]
    return write_features(path, layers, labels=LABELS, splits=splits, numbers=numbers)


def read_probabilities(file: Path) -> NDArray[np.float64]:
    _, rows = read_table(file)
    return np.array([[float(cell) for cell in row[3:]] for row in rows])


def fit_plainly(
    rows: NDArray[np.bool_] | NDArray[np.int64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit scikit-learn on both views of rows; return what it says of all images, by view."""
    plain, mirrored = (see(one, width).astype(np.float64) for one in (IMAGES, IMAGES[:, :, ::-1]))
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, tol=1e-5),
    )
    fitted = clone(model).fit(np.vstack([plain[rows], mirrored[rows]]), np.tile(LABELS[rows], 2))
    return fitted.predict_proba(plain), fitted.predict_proba(mirrored)


SETTINGS = ("C=0.1", "class_weight=balanced", "max_iter=2000", "tol=1e-5")
SET = tuple(part for setting in SETTINGS for part in ("--set", setting))


@pytest.fixture(params=WIDTHS.values(), ids=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give how many times 64 features there are; the wide rows are reduced, small as they are."""
    reduced: list[int] = []
    build = reduction.build_grams

    def note(matrix: Matrix, rows: Rows, *args: Any, **options: Any) -> Any:
        reduced.append(len(rows))
        return build(matrix, rows, *args, **options)

    monkeypatch.setattr(budget, "SMALL", 0)
    monkeypatch.setattr(reduction, "build_grams", note)
    yield request.param
    assert bool(reduced) == (request.param > 1)


def test_a_head_is_that_of_scikit_learn_on_the_rows_of_all_views(fit, tmp_path, width) -> None:
    features = write(tmp_path / "f.h5", width=width)
    plain, mirrored = fit_plainly(FITTED, width)
    is_test = SPLITS == "test"
    for options, expected in (((), plain), (("--average-views",), (plain + mirrored) / 2)):
        metrics = fit(features, *SET, *options)
        found = read_probabilities(tmp_path / "out/predictions.csv")
        np.testing.assert_allclose(found, expected[is_test], atol=1e-3)
        right = np.unique(LABELS)[expected.argmax(axis=1)] == LABELS
        assert metrics["accuracy"] == pytest.approx(right[is_test].mean())
        assert metrics["val_accuracy"] == pytest.approx(right[SPLITS == "val"].mean())
        assert (metrics["n_train"], metrics["n_test"]) == (FITTED.sum(), is_test.sum())
        assert (metrics["views"], metrics["average_views"]) == (
            ["identity", "hflip"],
            bool(options),
        )


@pytest.mark.parametrize("options", [(), ("--average-views",)], ids=["first", "average"])
def test_folds_are_over_images_and_learn_from_all_their_views(
    fit, tmp_path, width, options
) -> None:
    features = write(tmp_path / "f.h5", splits=NO_TEST, width=width)
    metrics = fit(features, *SET, *options, "--cv", 3)
    targets = Targets(task="classification", values=LABELS, classes=np.unique(LABELS))
    groups = np.array([*range(N - 2), 0, 1])
    expected = np.empty((N, 3))
    for train, test in make_folds(targets, groups, n_folds=3, seed=0):
        plain, mirrored = fit_plainly(train, width)
        expected[test] = ((plain + mirrored) / 2 if options else plain)[test]
    found = read_probabilities(tmp_path / "out/predictions.csv")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    is_right = targets.classes[expected.argmax(axis=1)] == LABELS
    assert metrics["cv_accuracy_mean"] == pytest.approx(is_right.mean(), abs=5e-3)


def test_a_sweep_measures_on_the_folds_of_fit(fit, command, tmp_path) -> None:
    features = write(tmp_path / "f.h5", splits=NO_TEST)
    asked = ("--features", features, "--cv", 3, "--average-views")
    cv = fit(features, "--cv", 3, "--average-views")["cv_accuracy_mean"]
    sweep = ("sweep", *asked, "--heads", "logreg,knn", "--json")
    found = command(*sweep, "--jobs", 1, "--out", tmp_path / "one").figures
    entries = {entry["head"]: entry for entry in found["configurations"]}
    assert entries["logreg"]["accuracy_mean"] == pytest.approx(cv)
    assert {entry["layer"] for entry in found["configurations"]} == {LAYER}
    assert found["best_metrics"]["average_views"] is True
    folds = [row["fold"] for row in read_rows(tmp_path / "one/folds.csv")]
    assert (len(folds), set(folds)) == (N, {*"012"})
    records = [row for row in read_rows(tmp_path / "one/results.csv") if row["head"] == "knn"]
    assert {int(row["n_train"]) + int(row["n_test"]) for row in records} == {N}


def test_no_image_is_on_both_sides_of_a_fold_or_of_held_out_rows(tmp_path) -> None:
    options = TaskOptions(features=(write(tmp_path / "f.h5", splits=NO_TEST),), average_views=True)
    with options.open_files() as files:
        bench = open_bench(options, files, files.find_layers(LAYER))
        trial = plan_trial(bench, n_folds=3)
        images = np.tile(np.array([*range(N - 2), 0, 1]), 2)
        for number, fold in enumerate(trial.folds):
            train, test = (trial.rows[some] for some in trial.find_fold(number))
            assert len(train) + len(test) == 2 * N
            assert not np.intersect1d(images[train], images[test]).size
            assert (trial.rows[fold.test] < N).all()
        codes = np.unique(bench.targets.values, return_inverse=True)[1]
        held_out = choose_held_out(codes, bench.groups, seed=0)
    assert len(held_out)
    assert not np.intersect1d(images[held_out], np.delete(images, held_out)).size


def test_what_a_fit_depends_on_are_its_views_and_how_it_is_measured(fit, command, tmp_path) -> None:
    one, two = write(tmp_path / "1.h5", views=("",)), write(tmp_path / "2.h5")
    sweep = (
        "sweep",
        "--heads",
        "logreg",
        "--cv",
        3,
        "--jobs",
        1,
        "--out",
        tmp_path / "s",
        "--json",
    )
    fitted = [
        command(*sweep, "--features", features, *options).figures["fitted"]
        for features, options in ((one, ()), (two, ()), (two, ("--average-views",)), (one, ()))
    ]
    assert fitted == [3, 3, 3, 0]
    assert "views" not in fit(one)


def test_a_view_alone_is_no_layer_and_cannot_be_averaged(
    command, refused, refused_fit, tmp_path
) -> None:
    one, two = write(tmp_path / "1.h5", views=("",)), write(tmp_path / "2.h5")
    assert f"is one view of {LAYER!r}; write {LAYER!r}" in refused_fit(two, layer=f"{LAYER}@hflip")
    line = (
        f"layer {LAYER} is of the view 'identity' alone; extract with --view identity,hflip, or"
        " drop --average-views"
    )
    assert line in refused_fit(one, "--average-views")
    asked = ("--features", one, "--average-views", "--heads", "logreg", "--out", tmp_path / "s")
    assert line in refused("sweep", *asked)
    both = refused_fit(one, "--features", two, layer=LAYER)
    assert "has the views identity, and" in both and "extract both with the same --view" in both
