"""How far each exported format's own runtime is from ``predict`` on photos.

python -m tests.benchmarks.export_parity --model runs/best --images photos/ --cache .permafrost
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.helpers import ROOT
from tests.pipeline.export.test_formats import RUNTIMES, read_outputs


def call(*arguments: object) -> dict[str, object]:
    """Run the command line by itself; returns the figures that it printed."""
    command = [sys.executable, "run.py", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "images", "cache"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "predictions.csv"
        call(
            *("predict", "--model", parsed.model.absolute(), "--images", parsed.images.absolute()),
            *("--cache", parsed.cache.absolute(), "--out", table),
        )
        expected, images = read_outputs(table), None
        for form in RUNTIMES:
            suffix = {"keras": ".keras", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
            out = folder / f"model{suffix.get(form, '')}"
            started_s = time.monotonic()
            export = ("export", "--model", parsed.model.absolute(), "--format", form, "--out", out)
            figures = call(*export)
            seconds = time.monotonic() - started_s
            if images is None:
                images = read_images(table, parsed.images, figures["input_shape"])
            error = float(np.abs(RUNTIMES[form](out, images) - expected).max())
            told = {"images": len(images), "max_difference": error, "bytes": figures["bytes"]}
            print(json.dumps({"format": form, **told, "seconds": round(seconds, 1)}), flush=True)


def read_images(table: Path, root: Path, shape: object) -> np.ndarray:
    """Load photos as Keras does, in the order of a table of predictions."""
    import keras

    height, width, _ = shape if isinstance(shape, list) else ()
    with table.open(newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    size = {"target_size": (height, width), "interpolation": "bilinear"}
    loaded = [keras.utils.img_to_array(keras.utils.load_img(root / p, **size)) for p in paths]
    return np.stack(loaded).astype(np.uint8)


if __name__ == "__main__":
    main()
