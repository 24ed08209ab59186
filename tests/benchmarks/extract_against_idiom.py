"""``extract`` against the script a newcomer would write: whole processes, in turn.

python -m tests.benchmarks.extract_against_idiom --images FOLDER [--n-images 256] [--rounds 3]

FOLDER holds class folders. Each round runs the Keras idiom and then ours, from an empty cache, on
the same photos, with the same random weights' architecture and layers; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BACKBONES = {"VGG16": "vgg16", "VGG19": "vgg19", "ResNet50": "resnet50", "MobileNet": "mobilenet"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One process: wall-clock seconds, and the most memory it held."""

    seconds: float
    peak_bytes: int


def run_measured(command: list[str]) -> Measured:
    """Run a command; it must succeed."""
    started_s = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            sys.exit(said.read().decode(errors="replace"))
    return Measured(time.monotonic() - started_s, usage.ru_maxrss * 1024)


def choose_images(folder: Path, n_images: int, target: Path) -> None:
    """Link the first images of each class folder, as many of each."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for label in classes:
        (target / label.name).mkdir(parents=True)
        for path in sorted(label.iterdir())[: n_images // len(classes)]:
            (target / label.name / path.name).symlink_to(path.resolve())


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--n-images", type=int, default=256)
    parser.add_argument("--model", default="VGG16", choices=list(BACKBONES))
    parser.add_argument("--layers", default="block2_pool,block5_pool")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[Measured]] = {"idiom": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        choose_images(options.images, options.n_images, scratch / "photos")
        idiom = [
            sys.executable, "tests/benchmarks/keras_idiom.py", str(scratch / "photos"),
            str(scratch / "idiom.h5"), "--model", options.model, "--layers", options.layers,
        ]  # fmt: skip
        ours = [
            sys.executable, "run.py", "extract", "--images", str(scratch / "photos"),
            "--backbone", BACKBONES[options.model], "--weights", "random", "--layers",
            options.layers, "--cache", str(scratch / "cache"), "--out", str(scratch / "ours.h5"),
        ]  # fmt: skip
        for number in range(options.rounds):
            found["idiom"].append(run_measured(idiom))
            shutil.rmtree(scratch / "cache", ignore_errors=True)
            found["ours"].append(run_measured(ours))
            print(f"round {number + 1}: {found['idiom'][-1]} {found['ours'][-1]}", file=sys.stderr)
    report(found, options.n_images)


def report(found: dict[str, list[Measured]], n_images: int) -> None:
    """Print medians and the ratios of each round."""
    for name, runs in found.items():
        seconds = statistics.median(run.seconds for run in runs)
        peak = statistics.median(run.peak_bytes for run in runs)
        print(f"{name:6} {n_images / seconds:6.2f} images/s  {peak / 1e9:5.2f} GB peak")
    pairs = list(zip(found["idiom"], found["ours"], strict=True))
    figures = {
        "speed_ratio": statistics.median(i.seconds / o.seconds for i, o in pairs),
        "memory_ratio": statistics.median(o.peak_bytes / i.peak_bytes for i, o in pairs),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
