"""A small experiment: its photos, its backbones and its file."""

from __future__ import annotations

import signal
from pathlib import Path

import yaml
from PIL import Image
from sklearn.datasets import load_sample_image

from permafrost.pipeline.cli.main import main

SIDE = 40
HEADS = [{"kind": "logreg", "C": [0.01, 1]}]
RIDGES = [{"kind": "ridge", "alpha": [1, 10, 100], "class_weight": ["none", {"china": 2}]}]


def write_crops(root, *, n_each):
    """Cut scikit-learn's two photographs into JPEG files, of which no two are alike."""
    for label in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{label}.jpg"))
        (root / label).mkdir(parents=True)
        for number in range(n_each):
            left, top = 13 * number % (640 - SIDE), 17 * number % (427 - SIDE)
            crop = photo.crop((left, top, left + SIDE, top + SIDE))
            crop.save(root / label / f"{number}.jpg", quality=90)


def write_backbone(file, *, seed):
    from permafrost.stages.frameworks.start import start_tensorflow

    start_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="first"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="last"),
        ],
        name="mobilenet_tiny",
    ).save(file)


def write_experiment(**replaced):
    """Write experiment.yaml in the current folder."""
    content = {
        "images": "photos",
        "split": {"test": 0.3, "seed": 1},
        "cache": "cache",
        "backbones": [
            {"name": "tiny.keras", "layers": ["first:avg", "last:avg"]},
            {"name": "other.keras", "layers": ["last:max"]},
        ],
        "heads": HEADS,
        "cv": 2,
        "jobs": 1,
        "out": "runs",
    }
    Path("experiment.yaml").write_text(yaml.safe_dump(content | replaced))


def call_main(*arguments):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return main([*arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def count_computed(figures):
    return sum(extraction["computed"] for extraction in figures["extractions"])
