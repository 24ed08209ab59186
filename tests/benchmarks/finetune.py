"""The same training twice: by the head ``finetune`` from the cache, and by Keras end to end.

::

    python -m tests.benchmarks.finetune IMAGES MODEL.keras LAYER [--images 200] [--epochs 3]

IMAGES is a folder of class folders. Keras gets the decoded, prepared images in memory, the layers
up to LAYER frozen and the same first weights, batches and order; what is decoded and computed once
for the cache is told beside it. Said are the largest difference of the weights, relative to each
weight's own scale, and the seconds of an epoch.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.helpers import ROOT


def run(*arguments: object) -> float:
    """Run a command of the tool, and return the seconds that it took."""
    started_s = time.monotonic()
    command = [sys.executable, "run.py", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - started_s


def fit(
    folder: Path, layer: str, *, epochs: int, rate: float, out: str
) -> tuple[list[float], list[np.ndarray]]:
    """Fine-tune from the cache; return seconds of each epoch, and the weights."""
    settings = {"epochs": epochs, "patience": 0, "learning_rate": rate}
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run("fit", "--features", folder / "f.h5", "--layer", layer, "--head", "finetune", *pairs,
        "--out", folder / out)  # fmt: skip
    with (folder / out / "epochs.csv").open(encoding="utf-8") as stream:
        seconds = [float(row["seconds"]) for row in csv.DictReader(stream)]
    import keras

    network = keras.models.load_model(folder / out / "head" / "head.keras", compile=False)
    return seconds, [one.numpy() for one in network.weights]


def load_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return an image as MobileNet takes it."""
    from keras.utils import img_to_array, load_img

    image = img_to_array(load_img(path, target_size=size, interpolation="bilinear"))
    prepared: np.ndarray = image / np.float32(127.5) - np.float32(1)
    return prepared


def train_keras(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    options: argparse.Namespace,
    first: list[np.ndarray],
) -> tuple[list[float], list[np.ndarray]]:
    """Train the whole network, of which the first layers are frozen."""
    import keras

    whole = keras.models.load_model(options.model, compile=False)
    place = [layer.name for layer in whole.layers].index(options.layer)
    for number, layer in enumerate(whole.layers):
        if number <= place or isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    pooled = keras.layers.GlobalAveragePooling2D()(whole.output)
    top = keras.layers.Dense(len(np.unique(labels)), activation="softmax")
    network = keras.Model(whole.input, top(pooled))
    top.set_weights(first[-2:])
    network.compile(
        keras.optimizers.Adam(options.rate), "sparse_categorical_crossentropy", jit_compile=False
    )
    seconds = []
    for epoch in range(options.epochs):
        order = np.random.default_rng([0, epoch]).permutation(len(images))
        shuffled, named = images[order], labels[order]
        started_s = time.monotonic()
        network.fit(shuffled, named, batch_size=32, shuffle=False, verbose=0)
        seconds.append(time.monotonic() - started_s)
    above = [one for layer in whole.layers[place + 1 :] for one in layer.weights]
    return seconds, [one.numpy() for one in (*above, *top.weights)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("layer")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()
    import keras

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = sorted(one.name for one in options.folder.iterdir())
        for kind in classes:
            (folder / "photos" / kind).mkdir(parents=True)
            chosen = sorted((options.folder / kind).iterdir())[: options.images // len(classes)]
            for file in chosen:
                (folder / "photos" / kind / file.name).symlink_to(file.absolute())
        filled_s = run(
            *("extract", "--images", folder / "photos", "--out", folder / "f.h5"),
            *("--backbone", options.model, "--layers", options.layer, "--cache", folder / "cache"),
        )
        paths = sorted((folder / "photos").rglob("*.*"))
        size = keras.models.load_model(options.model, compile=False).input_shape[1:3]
        images = np.stack([load_image(one, size) for one in paths])
        labels = np.array([classes.index(one.parent.name) for one in paths])
        # In float32 the rate is 0, so that the fit leaves what it began with.
        _, first = fit(folder, options.layer, epochs=1, rate=1e-300, out="first")
        ours_s, ours = fit(
            folder, options.layer, epochs=options.epochs, rate=options.rate, out="ours"
        )
        theirs_s, theirs = train_keras(folder, images, labels, options, first)
        differences = [
            float(np.linalg.norm(a - b) / np.linalg.norm(b))
            for a, b in zip(ours, theirs, strict=True)
        ]
        moved = [
            float(np.linalg.norm(a - b) / np.linalg.norm(b))
            for a, b in zip(first, theirs, strict=True)
        ]
        print(
            f"{len(images)} images; filling the cache, with the start of Python: {filled_s:.1f} s"
        )
        print(
            f"weights moved by up to {max(moved):.1e}, and differ by up to {max(differences):.1e}"
        )
        a, b = statistics.median(ours_s[1:] or ours_s), statistics.median(theirs_s[1:] or theirs_s)
        print(
            f"seconds an epoch: {a:.3f} from the cache, {b:.3f} by Keras end to end:"
            f" {b / a:.1f} times"
        )


if __name__ == "__main__":
    main()
