"""Programs alone: images a second of each engine and precision, and how far they are from float32.

python -m tests.benchmarks.engines --images FOLDER --backbone vgg16 --layers block5_pool:avg
    [--weights random] [--n-images 64] [--batch-size 32] [--rounds 5]

The images are decoded beforehand. Each round runs all of them through each program in turn; the
figures are medians over the rounds, and the ratios those of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.engines.openvino_engine import OpenVinoProgram
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.support import check_precision
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import InputError
from permafrost.stages.shortcuts.differences import Run, measure_errors
from tests.benchmarks.photos import choose_evenly, list_images

ENGINES: dict[str, Callable[..., Run]] = {
    "tensorflow": TensorFlowProgram,
    "openvino": OpenVinoProgram,
}
REFERENCE = "tensorflow float32"


def read_images(folder: Path, n_images: int, spec: DecodeSpec) -> np.ndarray:
    """Decode images spread evenly over the folder."""
    chosen = choose_evenly(list_images(folder), n_images)
    return np.stack([decode_image(path.read_bytes(), spec).pixels for path in chosen])


def build_programs(backbone: Backbone) -> Iterator[tuple[str, Run]]:
    """Build a program for each engine and precision that this machine has."""
    spec = ProgramSpec(layers=tuple(backbone.layers), preprocess=backbone.preprocess)
    for engine, build in ENGINES.items():
        for precision in ("float32", "bfloat16", "float16"):
            try:
                check_precision(engine, precision)
            except InputError as error:
                print(f"{engine} {precision}: {error}")
                continue
            started_s = time.perf_counter()
            program = build(backbone.load(), replace(spec, precision=precision))
            print(f"{engine} {precision}: built in {time.perf_counter() - started_s:.1f} s")
            yield f"{engine} {precision}", program


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--layers", required=True)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--n-images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    backbone = Backbone(
        FeatureOptions(
            backbone=options.backbone,
            layers=tuple(options.layers.split(",")),
            weights=options.weights,
        )
    )
    height, width = backbone.card.size
    images = read_images(options.images, options.n_images, DecodeSpec(height=height, width=width))
    batches = [
        images[start : start + options.batch_size]
        for start in range(0, len(images), options.batch_size)
    ]
    programs = dict(build_programs(backbone))
    errors = {
        name: measure_errors(program, programs[REFERENCE], batches)
        for name, program in programs.items()
    }
    report(time_programs(programs, batches, options.rounds), errors, len(images))


def time_programs(
    programs: dict[str, Run], batches: list[np.ndarray], n_rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each program in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(n_rounds):
        for name, program in programs.items():
            started_s = time.perf_counter()
            for batch in batches:
                program(batch)
            seconds[name].append(time.perf_counter() - started_s)
    return seconds


def report(
    seconds: dict[str, list[float]], errors: dict[str, list[tuple[float, float]]], n_images: int
) -> None:
    """Print medians, ratios to the reference, and the errors of each layer."""
    figures = {}
    for name, rounds in seconds.items():
        rate = n_images / statistics.median(rounds)
        pairs = zip(seconds[REFERENCE], rounds, strict=True)
        ratio = statistics.median(reference / own for reference, own in pairs)
        told = ", ".join(f"{largest:.1e} / {mean:.1e}" for largest, mean in errors[name])
        print(f"{name:20} {rate:8.1f} images/s  x {ratio:.2f}  errors {told}")
        figures[name] = {"images_per_second": rate, "ratio": ratio, "errors": errors[name]}
    print(json.dumps({**figures, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
