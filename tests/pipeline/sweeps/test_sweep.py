"""``sweep`` against plain scikit-learn on the same folds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from tests.helpers.sweeps import HALVES, LABELS, MAPS, PIXELS, SPLITS, N, read_folds
from tests.helpers.views import write_features


def score_plainly(model, values, folds, targets=LABELS, **options):
    rest = folds >= 0
    return cross_val_score(
        model, values[rest], targets[rest], cv=PredefinedSplit(folds[rest]), **options
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_leaderboard_equals_cross_val_score_on_the_same_folds(view, sweep, tmp_path, jobs):
    found = sweep(
        *(view, "--layers", "late:avg,early:avg", "--heads", "logreg,knn"),
        *("--set", "C=0.01,1", "--set", "knn.scale=l2", "--cv", 4),
        jobs=jobs,
    )
    folds = read_folds(tmp_path / "out")
    assert set(folds[SPLITS == "test"]) == {-1}
    models = {
        ("logreg", 0.01): make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=999)),
        ("logreg", 1.0): make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=999)),
        ("knn", None): make_pipeline(Normalizer(), KNeighborsClassifier(metric="cosine")),
    }
    assert len(found["configurations"]) == 6
    for one in found["configurations"]:
        values = PIXELS if one["layer"] == "late:avg" else HALVES
        model = models[one["head"], one["settings"].get("C")]
        expected = score_plainly(model, values, folds)
        assert [fold["accuracy"] for fold in one["folds"]] == pytest.approx(expected, abs=0.002)
        assert one["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_processes_give_the_same_numbers(view, sweep, tmp_path):
    options = ("--heads", "logreg,nearest_mean,mlp", "--set", "epochs=3", "--cv", 3)
    one = sweep(view, *options, "--layers", "late:avg", out=tmp_path / "one")
    two = sweep(view, *options, "--layers", "late:avg", out=tmp_path / "two", jobs=2)

    def strip(found):
        return {
            (c["head"], f["fold"]): {k: v for k, v in f.items() if k != "seconds"}
            for c in found["configurations"]
            for f in c["folds"]
        }

    assert strip(one).keys() == strip(two).keys()
    for key, scores in strip(one).items():
        assert strip(two)[key] == pytest.approx(scores, abs=1e-5)


def test_a_pooling_that_was_not_extracted_is_derived_from_the_map(view, sweep, tmp_path):
    found = sweep(
        *(view, "--layers", "maps", "--poolings", "avg,max,flatten", "--heads", "ridge"),
        *("--cv", 3, "--set", "scale=none"),
    )
    # One channel: a map's mean and maximum are a single feature each.
    values = {"maps:avg": MAPS.mean(axis=(1, 2)), "maps:max": MAPS.max(axis=(1, 2))}
    values["maps:flatten"] = PIXELS
    assert {one["layer"] for one in found["configurations"]} == set(values)
    from sklearn.linear_model import RidgeClassifier

    folds = read_folds(tmp_path / "out")
    for one in found["configurations"]:
        expected = score_plainly(RidgeClassifier(), values[one["layer"]], folds)
        assert one["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_layers_side_by_side_and_files_side_by_side_are_the_stacked_matrix(sweep, tmp_path):
    order = np.random.default_rng(0).permutation(N)[: N - 20]
    first = write_features(tmp_path / "1.h5", {"a": PIXELS}, labels=LABELS, splits=SPLITS)
    second = write_features(
        tmp_path / "2.h5",
        {"b": HALVES[order]},
        labels=["?"] * len(order),
        splits=[""] * len(order),
        numbers=order,
    )
    found = sweep([first, second], "--layers", "a+b", "--heads", "logreg", "--cv", 3)
    folds = read_folds(tmp_path / "out")
    known = np.isin(np.arange(N), order) & (SPLITS != "test")
    assert (folds >= 0).tolist() == known.tolist()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    expected = score_plainly(model, np.hstack([PIXELS, HALVES]), folds)
    assert found["configurations"][0]["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_a_regression_is_ranked_by_r2(sweep, tmp_path):
    data = load_diabetes()
    values, ages = data.data.astype(np.float32), data.target
    labels, columns = ["?"] * len(ages), {"progression": ages}
    path = write_features(
        tmp_path / "d.h5", {"x": values}, labels=labels, splits=[""] * len(ages), columns=columns
    )
    found = sweep(
        *(path, "--task", "regression", "--target", "progression", "--heads", "ridge,knn"),
        *("--set", "alpha=0.1,10", "--cv", 4),
    )
    folds = read_folds(tmp_path / "out", len(ages))
    assert found["metric"] == "r2"
    means = [one["r2_mean"] for one in found["configurations"]]
    assert means == sorted(means, reverse=True)
    for one in found["configurations"]:
        if one["head"] == "ridge":
            model = make_pipeline(StandardScaler(), Ridge(alpha=one["settings"]["alpha"]))
            expected = score_plainly(model, values, folds, ages, scoring="r2")
            assert one["r2_mean"] == pytest.approx(expected.mean(), abs=1e-3)


def test_test_rows_never_choose(sweep, tmp_path):
    changed = PIXELS.copy()
    changed[SPLITS == "test"] = 7.0
    options = ("--heads", "logreg,nearest_mean", "--cv", 3)
    boards = []
    for name, values in (("a", PIXELS), ("b", changed)):
        path = write_features(tmp_path / f"{name}.h5", {"x": values}, labels=LABELS, splits=SPLITS)
        found = sweep(path, *options, out=tmp_path / name)
        boards.append([(one["head"], one["accuracy_mean"]) for one in found["configurations"]])
    assert boards[0] == boards[1]


def test_the_val_split_chooses_where_there_is_one(sweep, tmp_path):
    splits = np.array(["train", "val", "train", "test"] * (N // 4))
    path = write_features(tmp_path / "v.h5", {"x": PIXELS}, labels=LABELS, splits=splits)
    found = sweep(path, "--heads", "logreg")
    (fold,) = found["configurations"][0]["folds"]
    train, val = splits == "train", splits == "val"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    model.fit(PIXELS[train], LABELS[train])
    assert fold["accuracy"] == pytest.approx(model.score(PIXELS[val], LABELS[val]), abs=0.002)
    assert (fold["n_train"], fold["n_test"]) == (train.sum(), val.sum())
    assert found["configurations"][0]["accuracy_std"] is None


def test_rows_of_a_group_share_a_fold(sweep, tmp_path):
    groups = [f"patient {row // 3}" for row in range(N)]
    path = write_features(
        tmp_path / "g.h5",
        {"x": PIXELS},
        labels=LABELS,
        splits=[""] * N,
        columns={"Group": groups},
    )
    sweep(path, "--heads", "nearest_mean", "--cv", 4)
    folds = read_folds(tmp_path / "out")
    assert all(len(set(folds[row : row + 3])) == 1 for row in range(0, N - 2, 3))


def test_the_best_is_fitted_and_measured_on_the_test_split_once(view, sweep, command, tmp_path):
    found = sweep(view, "--layers", "late:avg", "--heads", "logreg,nearest_mean", "--cv", 3)
    assert found["best_metrics"]["head"] == found["configurations"][0]["head"] == "logreg"
    low, high = found["best_metrics"]["interval"]
    assert low <= found["best_metrics"]["accuracy"] <= high
    test = SPLITS == "test"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    model.fit(PIXELS[~test], LABELS[~test])
    assert found["best_metrics"]["accuracy"] == model.score(PIXELS[test], LABELS[test])
    assert (tmp_path / "out" / "best" / "model.json").exists()


def test_a_head_that_cannot_be_fitted_costs_only_itself(view, sweep):
    found = sweep(
        *(view, "--layers", "late:avg", "--heads", "knn,logreg", "--cv", 3),
        *("--set", "neighbors=5,5000"),
    )
    *fitted, failed = found["configurations"]
    assert [one["error"] for one in fitted] == [None, None]
    assert "5000" in failed["error"]


def test_a_person_sees_the_table_and_where_the_figures_are(view, command, tmp_path):
    answer = command(
        *("sweep", "--features", view, "--layers", "late:avg", "--heads", "logreg"),
        *("--set", "C=0.1,1", "--cv", 2, "--out", tmp_path / "out", "--jobs", 1),
    )
    assert answer.status == 0
    assert "logreg C=0.1" in answer.out
    assert "leaderboard.csv" in answer.out
    assert "never used for choosing" in answer.out
    assert "4/4 fits" in answer.err
