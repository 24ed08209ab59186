"""The digits that sweeps are tested on, and the tables that sweeps leave."""

from __future__ import annotations

import csv

import numpy as np
from sklearn.datasets import load_digits

N = 400
DIGITS = load_digits()
MAPS = DIGITS.images[:N, :, :, None].astype(np.float32)
PIXELS = DIGITS.data[:N].astype(np.float32)
HALVES = np.concatenate([PIXELS[:, 32:], PIXELS[:, :32] ** 2], axis=1)
LABELS = np.array([f"digit {digit}" for digit in DIGITS.target[:N]])
SPLITS = np.array(["train", "test", "train", "train"] * (N // 4))


def read_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def read_folds(out, n_rows=N):
    """Return the fold of each row, -1 where it is in none."""
    folds = np.full(n_rows, -1)
    for row in read_rows(out / "folds.csv"):
        folds[int(row["path"][:4])] = int(row["fold"])
    return folds
