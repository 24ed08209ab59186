"""Logistic regressions on very wide features: reduced rows against scikit-learn's direct fit.

python -m tests.benchmarks.wide_linear_heads [--features F.h5 --layer conv_pw_6_relu]
    [--rows 1000 --values 100352] [--memory 1000000000] [--scale standard] [--ways reduced,direct]

Without --features, random layers of scikit-learn's digits are written to a file first. The
reduced way fits 8 values of C on 5 folds, the direct one a single C on a single fold; each is a
process of its own, which reads the file as it goes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from permafrost.stages.heads import HEADS
from permafrost.stages.matrices.matrix import Rows
from permafrost.stages.matrices.reduction import scale_rows

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
N_FOLDS = 5

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class DatasetMatrix:
    """An HDF5 dataset of one row an image, of any shape."""

    dataset: Any
    key: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""
        return len(self.dataset), math.prod(self.dataset.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is stored."""
        dtype: np.dtype[Any] = self.dataset.dtype
        return dtype

    def read(self, rows: Rows) -> np.ndarray:
        """Read rows in the given order."""
        return np.stack([self.dataset[row].ravel() for row in rows])

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[np.ndarray]:
        """Yield columns from left to right, whole slices of a row's leading axis at a time."""
        slice_bytes = math.prod(self.dataset.shape[2:]) * self.dtype.itemsize * len(self.dataset)
        step = max(1, n_bytes // slice_bytes)
        for start in range(0, self.dataset.shape[1], step):
            block = self.dataset[:, start : start + step].reshape(len(self.dataset), -1)
            yield block if np.array_equal(rows, np.arange(len(block))) else block[rows]


def write_digits(path: Path, *, n_rows: int, n_values: int) -> None:
    """Write a file like those of ``extract``, a random layer of the digits in it."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(pixels), n_rows, replace=n_rows > len(pixels))
    weights = generator.standard_normal((pixels.shape[1], n_values), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["images/label"] = digits[chosen].astype(bytes)
        features = file.create_dataset("features/wide", (n_rows, n_values), "f4")
        for position, row in enumerate(chosen):
            features[position] = np.maximum(pixels[row].astype(np.float32) @ weights / 16, 0)


def make_folds(n_rows: int) -> list[np.ndarray]:
    """Return the training rows of each fold."""
    fold = np.random.default_rng(0).permutation(n_rows) % N_FOLDS
    return [np.flatnonzero(fold != number) for number in range(N_FOLDS)]


def fit_reduced(dataset: Any, labels: np.ndarray, *, scale: str, memory_bytes: int) -> Figures:
    """Fit every C on every fold, and bring the last weights back."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    matrix, rows, trains = DatasetMatrix(dataset), np.arange(len(labels)), make_folds(len(labels))
    found = {"reduce_s": 0.0, "fit_s": 0.0}
    fit_bytes = HEADS["logreg"].fit_bytes
    scaled_rows = scale_rows(
        *(matrix, rows), scale=scale, trains=trains, memory_bytes=memory_bytes, fit_bytes=fit_bytes
    )
    for train in trains:
        scaled, seconds = measure(next, scaled_rows)
        found["reduce_s"] += seconds
        # L-BFGS on a small matrix is many times slower with two threads than with one.
        with threadpool_limits(1, user_api="blas"):
            for strength in STRENGTHS:
                model = LogisticRegression(C=strength, max_iter=1000)
                _, seconds = measure(model.fit, scaled.values[train], labels[train])
                found["fit_s"] += seconds
    found["restore_s"] = measure(scaled.restore, model.coef_)[1]
    return found


def fit_direct(dataset: Any, labels: np.ndarray, *, scale: str, memory_bytes: int) -> Figures:
    """Fit one C on one fold, in as much memory as it takes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    scalers = {
        "standard": StandardScaler(copy=False),
        "l2": Normalizer(copy=False),
        "none": "passthrough",
    }
    train = make_folds(len(labels))[0]
    model = make_pipeline(scalers[scale], LogisticRegression(max_iter=1000))
    started_s = time.perf_counter()
    features = dataset[()].reshape(len(dataset), -1)[train]
    read_s = time.perf_counter() - started_s
    return {"read_s": read_s, "fit_s": measure(model.fit, features, labels[train])[1]}


def measure(act: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return what `act` returns, and the seconds that it took."""
    started_s = time.perf_counter()
    found = act(*arguments)
    return found, time.perf_counter() - started_s


WAYS = {"reduced": fit_reduced, "direct": fit_direct}


def run_way(options: argparse.Namespace) -> None:
    """Measure one way in this process, and print it as JSON."""
    with h5py.File(options.features) as file:
        dataset = file["features"][options.layer]
        labels = file["images/label"][()].astype(str)
        figures = WAYS[options.ways](
            dataset, labels, scale=options.scale, memory_bytes=options.memory
        )
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({key: round(value, 2) for key, value in figures.items()} | {
        "peak_gb": round(peak_bytes / 1e9, 2)
    }))  # fmt: skip


def compare_ways(options: argparse.Namespace) -> None:
    """Run each way in a process of its own and print its figures."""
    for way in options.ways.split(","):
        command = [
            *(sys.executable, "-m", "tests.benchmarks.wide_linear_heads", "--alone"),
            *("--ways", way, "--features", str(options.features), "--layer", options.layer),
            *("--memory", str(options.memory), "--scale", options.scale),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{way:8} {done.stdout.strip()}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, help="a file of extract --materialize")
    parser.add_argument("--layer", default="wide")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--values", type=int, default=100_352)
    parser.add_argument("--memory", type=int, default=10**9, help="bytes for the reduced way")
    parser.add_argument("--scale", default="standard", choices=["standard", "l2", "none"])
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        run_way(options)
    elif options.features:
        compare_ways(options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.features = Path(folder) / "wide.h5"
            write_digits(options.features, n_rows=options.rows, n_values=options.values)
            compare_ways(options)


if __name__ == "__main__":
    main()
