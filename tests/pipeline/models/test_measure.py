"""How far the figures of a fit may be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.helpers.digits import N, digit_labels
from tests.helpers.views import LAYER, write_features


def test_images_that_are_nearly_in_the_training_rows_are_reported(command, tmp_path, caplog):
    values = load_digits().data[:N].astype(np.float32)
    labels, splits = digit_labels(), np.array(["train", "test"] * (N // 2))
    values[1], values[11] = values[0] * 1.01, values[20] + 0.01
    path = write_features(tmp_path / "n.h5", {LAYER: values}, labels=labels, splits=splits)
    answer = command(
        *("fit", "--features", path, "--layer", LAYER, "--head", "nearest_mean"),
        *("--out", tmp_path / "out"),
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert answer.status == 0
    pairs = [pair[:2] for pair in metrics["near_duplicate_pairs"]]
    assert ["0001.png", "0000.png"] in pairs
    assert ["0011.png", "0020.png"] in pairs
    assert metrics["near_duplicates"] == len(pairs)
    assert f"{len(pairs)} of 150 test images are nearly training images" in caplog.text


def test_the_interval_of_the_test_score_holds_it(view, fit):
    metrics = fit(view)
    low, high = metrics["interval"]
    n, p = metrics["n_test"], metrics["accuracy"]
    assert low < p < high
    # The normal approximation of a share's interval, which resampling comes near.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.35)


def test_figures_per_class_add_up(view, fit):
    metrics = fit(view)
    counts = np.array(metrics["confusion"]["counts"])
    assert metrics["confusion"]["classes"] == metrics["classes"]
    assert counts.sum() == metrics["n_test"]
    assert np.trace(counts) / counts.sum() == metrics["accuracy"]
    assert [row["support"] for row in metrics["per_class"]] == counts.sum(axis=1).tolist()
