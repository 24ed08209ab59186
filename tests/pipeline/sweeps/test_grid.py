"""Settings as people type them, and mistakes in them."""

from __future__ import annotations

import pytest

from permafrost.pipeline.sweeps.grid import split_values
from tests.helpers.sweeps import LABELS, PIXELS, SPLITS, N
from tests.helpers.views import write_features


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1, 1", ["0.1", "1"]),
        ("[256],[256,128]", ["[256]", "[256,128]"]),
        ("cat:1,dog:3", ["cat:1,dog:3"]),
        ("none,cat:1,dog:3,balanced", ["none", "cat:1,dog:3", "balanced"]),
        ("[cat:1],[cat:1,dog:3]", ["[cat:1]", "[cat:1,dog:3]"]),
    ],
)
def test_lists_of_values_are_split_where_a_person_means_it(text, values):
    assert split_values("name", text) == values


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--heads", "logerg"], "did you mean 'logreg'?"),
        (["--heads", "logreg", "--set", "c=1"], "did you mean 'C'?"),
        (["--heads", "logreg", "--set", "knn.neighbors=1"], "knn"),
        (["--heads", "logreg", "--set", "C=1,,2"], "C=1,,2 has an empty value"),
        (["--heads", "logreg", "--set", "C=1", "--set", "C=2"], "C is given twice"),
        (["--heads", "logreg,"], "'logreg,' has an empty name"),
        (["--heads", "logreg", "--jobs", "two"], "sweep --help"),
        (["--heads", "logreg", "--set", "C=1,x"], "C=x"),
        (["--heads", "logreg", "--layers", "lat:avg"], "late:avg"),
        (["--heads", "logreg", "--layers", "maps", "--poolings", "agv"], "did you mean 'avg'?"),
        (["--heads", "logreg", "--task", "regression"], "ridge"),
        (["--heads", "ridge", "--task", "regression"], "not a finite number"),
        (["--heads", "logreg", "--target", "labl"], "label"),
        (["--heads", "logreg", "--cv", "1"], "--cv 2"),
        (["--heads", "logreg", "--cv", "90"], "fewer than 90 folds"),
        # So many fits would not fit into any memory.
        (["--heads", "logreg", "--cv", "99999999999999999999"], "fewer than 99999999999999999999"),
        (["--heads", "logreg", "--track", ""], "--track ''"),
        (["--heads", "logreg", "--jobs", "0"], "--jobs 0"),
        (["--heads", "logreg", "--set", "class_weight=none,digt 1:2"], "did you mean 'digit"),
    ],
)
def test_mistakes_are_one_line(view, command, tmp_path, options, says):
    answer = command("sweep", "--features", view, "--out", tmp_path / "out", *options)
    assert answer.status == 2
    assert says in answer.err
    assert answer.err.startswith("permafrost: ") and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("labels", "splits", "says"),
    [
        (["cat"] * N, SPLITS, "labelled 'cat'"),
        (LABELS, ["test"] * N, "--split test=0.3"),
        ([""] * N, SPLITS, "--labels"),
    ],
    ids=["one class", "all in one split", "no label"],
)
def test_datasets_without_an_answer_are_one_line(command, tmp_path, labels, splits, says):
    path = write_features(tmp_path / "v.h5", {"x": PIXELS}, labels=labels, splits=splits)
    answer = command("sweep", "--features", path, "--heads", "logreg", "--out", tmp_path / "out")
    assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert says in answer.err
