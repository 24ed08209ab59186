"""Layers of several files, side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.helpers.digits import SPLITS, N, digit_labels, fit_head, write_view
from tests.helpers.views import write_features


def test_layers_of_two_files_are_one_matrix(command, tmp_path):
    values = load_digits().data[:N].astype(np.float32)
    left = write_features(
        tmp_path / "l.h5", {"a": values[:, :40]}, labels=digit_labels(), splits=SPLITS
    )
    shuffled = np.random.default_rng(1).permutation(N)
    right = write_features(
        tmp_path / "r.h5",
        {"b": values[shuffled, 40:]},
        labels=[""] * N,
        splits=[""] * N,
        numbers=shuffled,
    )
    answer = command(
        *("fit", "--features", left, "--features", right, "--layer", "a+b", "--head", "logreg"),
        *("--out", tmp_path / "out", "--json"),
    )
    figures = answer.figures
    whole = write_view(tmp_path / "w.h5", labels=digit_labels())
    expected = fit_head(command, whole, "--head", "logreg", out=tmp_path / "whole")
    assert figures["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-3)
    assert [
        part["layer"] for part in json.loads((tmp_path / "out" / "model.json").read_text())["parts"]
    ] == ["a", "b"]


def test_one_layer_name_stands_for_that_layer_of_every_file(command, tmp_path):
    values = load_digits().data[:N].astype(np.float32)
    files = [
        write_features(
            tmp_path / f"{i}.h5", {"avg_pool": part}, labels=digit_labels(), splits=SPLITS
        )
        for i, part in enumerate(np.split(values, 2, axis=1))
    ]
    named = [text for file in files for text in ("--features", file)]
    answer = command(
        *("fit", *named, "--layer", "avg_pool", "--head", "ridge", "--out", tmp_path / "out"),
        "--json",
    )
    assert answer.status == 0, answer.err
    head = json.loads((tmp_path / "out" / "head" / "head.json").read_text())
    assert head["n_features"] == values.shape[1]


def test_files_without_a_common_image_are_one_line(refused, tmp_path):
    values = load_digits().data[:20].astype(np.float32)
    options = {"labels": digit_labels(n_rows=20), "splits": [""] * 20}
    one = write_features(tmp_path / "1.h5", {"a": values}, **options)
    two = write_features(tmp_path / "2.h5", {"b": values}, numbers=range(100, 120), **options)
    line = refused(
        *("fit", "--features", one, "--features", two, "--layer", "a+b", "--head", "logreg"),
        *("--out", tmp_path / "out"),
    )
    assert "no image in common" in line
