"""Folders to report: digits as images, their features, and what was fitted on them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from permafrost.pipeline.cli.main import main
from permafrost.pipeline.options import FeatureOptions
from tests.helpers.views import write_features

N = 240
DIGITS = load_digits()
PIXELS = DIGITS.data[:N].astype(np.float32)
NOISY = PIXELS + np.random.default_rng(0).normal(scale=15, size=PIXELS.shape).astype(np.float32)
# From the input on, in an order that is not that of their names.
LAYERS = {"b_first:avg": NOISY, "c_middle:avg": PIXELS[:, :32], "a_last:avg": PIXELS}
LABELS = [f"digit {digit}" for digit in DIGITS.target[:N]]
SPLITS = ["test" if row % 3 == 0 else "train" for row in range(N)]


def write_digits(folder: Path, *, labels=LABELS, splits=SPLITS, **more) -> Path:
    """Write digits as images into a folder, and their features beside it."""
    (folder / "digits").mkdir(parents=True)
    for row, image in enumerate(DIGITS.images[:N]):
        grey = Image.fromarray((image * 15).astype(np.uint8)).resize((48, 48))
        grey.save(folder / "digits" / f"{row:04d}.png")
    origin = FeatureOptions(backbone="vgg16", layers=tuple(LAYERS), size=(64, 48)).to_json()
    file = folder / "features.h5"
    return write_features(file, LAYERS, labels=labels, splits=splits, origin=origin, **more)


def call(*arguments: object) -> None:
    assert main(list(map(str, arguments))) == 0


def sweep(file: Path, out: Path, *options: object, heads: str = "logreg,knn") -> Path:
    call(
        *("sweep", "--features", file, "--heads", heads, "--cv", 3, "--jobs", 1, "--out", out),
        *options,
    )
    return out


def read_metrics(out: Path) -> dict[str, object]:
    metrics: dict[str, object] = json.loads((out / "metrics.json").read_text())
    return metrics


def find_chromium() -> str | None:
    """Return the browser that pages are opened in; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    given = os.environ.get("PERMAFROST_CHROMIUM")
    return given or next(filter(None, map(shutil.which, names)), None)
