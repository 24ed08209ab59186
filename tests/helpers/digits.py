"""A ``features.h5`` of scikit-learn's digits, and what a stranger reads and fits there."""

from __future__ import annotations

import csv

import h5py
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.helpers.views import LAYER, write_features

N = 300
SPLITS = np.array(["train", "test", "train", "val", ""] * (N // 5))
FITTED = np.isin(SPLITS, ("train", ""))


def write_view(path, *, labels, splits=SPLITS, change=None, **more):
    """Write a features.h5 of digits; `change` says which rows are to be others."""
    values = load_digits().data[: len(labels)].astype(np.float32)
    if change is not None:
        values[change] += 1e6
    return write_features(path, {LAYER: values}, labels=labels, splits=splits, **more)


def digit_labels(*, n_rows=N):
    return np.array([f"digit {digit}" for digit in load_digits().target[:n_rows]])


def read_table(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


def read_plainly(path):
    """Read values, labels and splits as a stranger does."""
    with h5py.File(path) as file:
        values = file[f"features/{LAYER}"][()].reshape(len(file["images/path"]), -1)
        labels, splits = (file[f"images/{name}"].asstr()[()] for name in ("label", "split"))
    return values, labels, splits


def plain_model(c=1.0):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def fit_head(command, features, *options, out):
    answer = command(
        *("fit", "--features", features, "--layer", LAYER, "--out", out, "--json", *options)
    )
    return answer.figures
