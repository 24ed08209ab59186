"""Layers of several files, side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from tests.helpers.digits import FITTED, SPLITS, N, digit_labels, fit_head, read_table, write_view
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


def draw_maps():
    """Make nine maps of the digits, of far different lengths, and of different widths."""
    values, rng = load_digits().data[:N], np.random.default_rng(0)
    return {
        f"map{n}": (np.maximum(values @ rng.standard_normal((64, 64 * n)), 0) * 10.0 ** (n - 4))
        .reshape(N, 4, 4, 4 * n)
        .astype(np.float32)
        for n in range(1, 10)
    }


def halve(labels):
    return np.where(labels < "digit 5", "low", "high")


def test_all_maps_by_layer_are_scikit_learn_on_the_joined_matrix(command, tmp_path, monkeypatch):
    monkeypatch.setattr("permafrost.stages.matrices.budget.SMALL", 0)
    maps, labels = draw_maps(), halve(digit_labels())
    images = {"pixels": np.zeros((N, 2, 2, 3), np.uint8)}
    file = write_features(tmp_path / "f.h5", maps | images, labels=labels, splits=SPLITS)
    out = tmp_path / "out"
    answer = command(
        *("fit", "--features", file, "--layer", "all", "--head", "logreg", "--out", out),
        *("--set", "scale=layer", "--set", "tol=1e-8"),
    )
    assert "logreg on map1 and 8 other layers" in answer.out
    whole = np.hstack([normalize(one.reshape(N, -1).astype(np.float64)) for one in maps.values()])
    with threadpool_limits(1, user_api="blas"):
        plain = LogisticRegression(tol=1e-8, max_iter=10_000).fit(whole[FITTED], labels[FITTED])
    _, rows = read_table(out / "predictions.csv")
    said = np.array([row[3:] for row in rows], np.float64)
    np.testing.assert_allclose(said, plain.predict_proba(whole[SPLITS == "test"]), atol=1e-6)


def test_fit_tells_which_layers_head2toe_keeps(command, tmp_path):
    maps = draw_maps()
    noise = {"noise": np.random.default_rng(1).standard_normal((N, 9)).astype(np.float32)}
    file = write_features(
        tmp_path / "f.h5", maps | noise, labels=halve(digit_labels()), splits=SPLITS
    )
    answer = command(
        *("fit", "--features", file, "--layer", "all:avg", "--head", "head2toe"),
        *("--set", "share=0.2", "--set", "scale=standard", "--out", tmp_path),
    )
    assert answer.status == 0, answer.err
    assert "keeps 38 features: map" in answer.out and "layers more" in answer.out
    kept = json.loads((tmp_path / "metrics.json").read_text())["kept"]
    wanted = [*((f"map{n}:avg", 4 * n) for n in range(1, 10)), ("noise", 9)]
    assert [(one["layer"], one["of"]) for one in kept] == wanted
    assert sum(one["kept"] for one in kept) == 38 and kept[-1]["kept"] < 3
