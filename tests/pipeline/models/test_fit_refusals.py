"""What ``fit`` refuses, in one line that names the value and the remedy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from tests.helpers.digits import digit_labels, write_view
from tests.helpers.views import LAYER


def test_names_that_do_not_exist_propose_the_nearest(view, refused_fit):
    assert "did you mean 'logreg'?" in refused_fit(view, head="logerg")
    assert "did you mean 'max_iter'?" in refused_fit(view, "--set", "maxiter=3")
    assert LAYER in refused_fit(view, layer="blok:avg")
    assert "did you mean 'avg'?" in refused_fit(view, layer="block:agv")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "C=-1"], "C=-1"),
        (["--set", "C=nan"], "C=nan"),
        (["--set", "C=inf"], "C=inf"),
        (["--set", "C=1e999"], "C=1e999"),
        (["--set", "C=a lot"], "C=a lot"),
        (["--set", "C"], "KEY=VALUE"),
        (["--set", "=1"], "KEY=VALUE"),
        (["--set", "max_iter=1.5"], "max_iter=1.5"),
        (["--set", "scale=big"], "standard, l2, none"),
        (["--cv", "1"], "--cv 2 or more"),
        (["--cv", "-3"], "--cv 2 or more"),
        (["--cv", "40"], "fewer than 40 folds"),
        (["--seed", "-1"], "seed -1"),
        (["--seed", str(2**32)], f"seed {2**32}"),
    ],
)
def test_bad_values_are_named(view, refused_fit, options, says):
    assert says in refused_fit(view, *options)


@pytest.mark.parametrize(
    ("labels", "splits", "says"),
    [
        ([""] * 40, ["train"] * 40, "--labels"),
        (["cat"] * 40, ["train"] * 40, "all 40 training rows are labelled 'cat'"),
        (["cat", "dog"] * 20, ["train", "test"] * 20, "all 20 training rows are labelled 'cat'"),
        (["cat", "dog"] * 20, ["test"] * 40, "--split test=0.3"),
        (["cat", "dog"] * 20, ["val"] * 40, "--split test=0.3"),
    ],
    ids=["no label", "one class", "one class to train on", "all test", "all val"],
)
def test_rows_that_no_head_can_be_fitted_on_are_one_line(
    refused_fit, tmp_path, labels, splits, says
):
    path = write_view(tmp_path / "some.h5", labels=labels, splits=splits)
    assert says in refused_fit(path)
    assert not (tmp_path / "out" / "model.json").exists()


def test_a_file_that_is_no_features_file_is_one_line(refused_fit, tmp_path):
    assert "extract" in refused_fit(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("path,label\n")
    assert "text.h5" in refused_fit(tmp_path / "text.h5")
    assert str(tmp_path) in refused_fit(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert "/images/digest" in refused_fit(tmp_path / "other.h5")


def test_a_features_file_that_does_not_say_how_it_was_made_is_refused(refused_fit, tmp_path):
    path = write_view(tmp_path / "old.h5", labels=digit_labels(), origin="")
    assert "extract" in refused_fit(path)
    assert not (tmp_path / "out" / "model.json").exists()


def test_features_without_labels_or_splits_are_damaged(refused_fit, tmp_path):
    path = write_view(tmp_path / "some.h5", labels=digit_labels())
    with h5py.File(path, "a") as file:
        del file["images/split"]
    assert "damaged" in refused_fit(path, status=3)


def test_nan_is_never_fitted_on(refused_fit, tmp_path):
    path = write_view(tmp_path / "some.h5", labels=digit_labels())
    with h5py.File(path, "a") as file:
        file[f"features/{LAYER}"][0, 5] = np.nan
    assert "NaN" in refused_fit(path)


def test_an_out_that_is_a_file_is_named(view, refused_fit, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("precious")
    assert "notes.txt" in refused_fit(view, out=file, status=3)
    assert "notes.txt" in refused_fit(view, out=file / "below", status=3)
    assert file.read_text() == "precious"


def test_a_fit_that_needs_more_memory_says_how_much(refused_fit, view):
    line = refused_fit(view, "--memory", "100KB", head="knn")
    assert "--memory" in line
    assert "100" in line or "0.0001" in line
