"""Positive or negative transfer, named where a transferred head and one from scratch meet."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from permafrost.pipeline.sweeps.intervals import bound_difference, bound_score
from permafrost.pipeline.sweeps.journal import FoldRecord
from permafrost.pipeline.sweeps.transfer import Transfer, is_from_scratch
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.evaluation.fold_task import Candidate
from tests.helpers.sweeps import HALVES, LABELS, MAPS, SPLITS, N, read_rows
from tests.helpers.views import write_features


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """Two files: pixels beside a learnt layer, and the same digits under random weights."""
    folder = tmp_path_factory.mktemp("boards")
    noise = np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)
    said = {"labels": LABELS, "splits": SPLITS}
    images = {"pixels": MAPS.astype(np.uint8), "late:avg": noise}
    random = json.dumps({"backbone": "digits.keras", "layers": ["a:avg"], "weights": "random"})
    return (
        write_features(folder / "learnt.h5", images, **said),
        write_features(folder / "random.h5", {"early:avg": HALVES}, **said, origin=random),
    )


def test_useless_features_are_negative_transfer(boards, sweep, command, tmp_path):
    options = ("--heads", "nearest_mean", "--set", "scale=l2,standard", "--cv", "2")
    board = sweep(boards[0], *options)
    transfer = board["transfer"]
    assert transfer["verdict"] == "negative"
    best = {"yes": [], "no": []}
    for row in read_rows(tmp_path / "out" / "leaderboard.csv"):
        best[row["from_scratch"]].append(float(row["accuracy_mean"]))
        assert (row["layer"] == "pixels") == (row["from_scratch"] == "yes")
    difference = max(best["no"]) - max(best["yes"])
    assert transfer["difference"] == pytest.approx(difference, abs=1e-5)
    assert transfer["interval"][0] < difference < transfer["interval"][1] < 0
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["transfer"] == transfer
    answer = command("sweep", "--features", boards[0], *options, "--out", tmp_path / "out")
    assert "negative transfer: nearest_mean scale=" in answer.out
    assert "against the best from scratch, nearest_mean scale=" in answer.out


def test_features_of_random_weights_are_from_scratch(boards, sweep):
    options = ("--layers", "late:avg,early:avg", "--heads", "nearest_mean", "--cv", "3")
    found = sweep([boards[0], boards[1]], *options)["transfer"]
    assert found["transferred"] == "nearest_mean on late:avg"
    assert found["from_scratch"] == "nearest_mean on early:avg"


def test_where_all_is_transferred_nothing_is_said(view, sweep):
    assert sweep(view, "--layers", "late:avg", "--heads", "nearest_mean")["transfer"] is None


@pytest.mark.parametrize(
    ("kind", "weights", "learnt", "expected"),
    [
        ("finetune", "random", ["pixels"], True),
        ("finetune", "backbone", ["pixels"], False),
        ("finetune", "backbone", [], True),
        ("finetune", "random", ["block1_pool"], False),
        ("cnn", "", ["pixels"], True),
        ("knn", "uniform", ["pixels"], True),
        ("knn", "uniform", ["pixels", "block1_pool"], False),
    ],
)
def test_the_weights_that_a_head_goes_on_from_count_as_a_layers_do(kind, weights, learnt, expected):
    candidate = Candidate(kind=kind, settings=SimpleNamespace(weights=weights))
    layers = [SimpleNamespace(spec=parse_layer_spec(name)) for name in learnt]
    assert is_from_scratch(candidate, learnt=layers) == expected


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.1, 0.2), "positive"),
        ((-0.2, -0.1), "negative"),
        ((0, 1), "undecided"),
        (None, "undecided"),
    ],
)
def test_an_interval_with_0_decides_nothing(interval, verdict):
    found = Transfer(transferred="a", from_scratch="b", difference=0.15, interval=interval)
    assert found.verdict == verdict
    assert verdict in found.describe()


def make_records(*evidence):
    return [
        FoldRecord(
            key="a", fold=fold, scores={}, evidence=one, n_train=9, n_test=len(one), seconds=0
        )
        for fold, one in enumerate(evidence)
    ]


def test_the_interval_of_a_difference_is_that_of_a_plain_paired_bootstrap():
    rng = np.random.default_rng(1)
    wrong = rng.random((2, 300)) < [[0.3], [0.4]]
    ours, theirs = (make_records(*np.split(one.astype(np.int64), 3)) for one in wrong)
    draws = rng.integers(300, size=(4000, 300))
    expected = np.quantile(wrong[1][draws].mean(1) - wrong[0][draws].mean(1), [0.025, 0.975])
    assert bound_difference(ours, theirs) == pytest.approx(expected, abs=0.012)


def test_the_interval_of_a_score_draws_groups_of_rows_together():
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 9, size=200)
    wrong = rng.binomial(sizes, 0.3)
    draws = rng.integers(200, size=(4000, 200))
    expected = np.quantile(1 - wrong[draws].sum(1) / sizes[draws].sum(1), [0.025, 0.975])
    assert bound_score(make_records(wrong), sizes) == pytest.approx(expected, abs=0.012)


def test_draws_of_folds_add_up_to_intervals():
    drawn = np.linspace(0, 1, 1001)
    records = make_records(drawn / 2, drawn / 2)
    assert bound_score(records, np.empty(0, np.int64)) == pytest.approx((0.025, 0.975))
    assert bound_difference(records, make_records(drawn * 0, drawn * 0)) == pytest.approx(
        (0.025, 0.975)
    )
