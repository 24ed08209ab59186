"""Decoding alone, exact, isolated and fast, on one core: photos a second, and how pixels differ.

python -m tests.benchmarks.decoding --images FOLDER [--size 224] [--n-images 200] [--rounds 5]

Decodes images of FOLDER and below in turn: as Keras' ``load_img`` does, exactly, exactly as with
``--isolate``, and fast, in a process each, from memory. The figures are medians over the rounds of
the processor time of one thread and its children, so that others on the machine count for little.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.isolation import Isolation, decode_isolated
from tests.benchmarks.photos import choose_evenly, list_images


@functools.cache
def read_images(folder: Path, n_images: int) -> list[bytes]:
    """Read images spread evenly over the folder."""
    return [path.read_bytes() for path in choose_evenly(list_images(folder), n_images)]


def decode_plainly(data: bytes, *, size: int) -> NDArray[np.uint8]:
    """Do what ``keras.utils.load_img`` does."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def decode_apart(data: bytes, *, size: int) -> NDArray[np.uint8]:
    """Do what a run with ``--isolate`` does."""
    return decode_isolated(data, DecodeSpec(height=size, width=size), Isolation()).pixels


def decode(data: bytes, *, size: int, decoding: str) -> NDArray[np.uint8]:
    """Do what a run does."""
    return decode_image(data, DecodeSpec(height=size, width=size, decoding=decoding)).pixels


DECODERS: dict[str, Callable[..., NDArray[np.uint8]]] = {
    "plain": decode_plainly,
    "exact": partial(decode, decoding="exact"),
    "isolated": decode_apart,
    "fast": partial(decode, decoding="fast"),
}


def measure_rate(name: str, *, size: int, sample: tuple[Path, int]) -> float:
    """Return images a second of processor time."""
    images = read_images(*sample)
    DECODERS[name](images[0], size=size)
    started_s = count_seconds()
    for data in images:
        DECODERS[name](data, size=size)
    return len(images) / (count_seconds() - started_s)


def count_seconds() -> float:
    """Return the processor time of this thread and of the process' children."""
    children = [child.cpu_times() for child in psutil.Process().children()]
    return time.thread_time() + sum(times.user + times.system for times in children)


def measure_difference(data: bytes, *, size: int) -> float:
    """Return the mean absolute difference of fast from exact, in grey levels of 256."""
    exact, fast = (DECODERS[name](data, size=size).astype(int) for name in ("exact", "fast"))
    return float(np.abs(fast - exact).mean())


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--n-images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sample = options.images, options.n_images
    differences = [measure_difference(data, size=options.size) for data in read_images(*sample)]
    rates: dict[str, list[float]] = {name: [] for name in DECODERS}
    with ExitStack() as stack:
        # What Pillow keeps between pictures is a setting of the process.
        context = multiprocessing.get_context("spawn")
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context))
            for name in DECODERS
        }
        for _ in range(options.rounds):
            for name, worker in workers.items():
                call = partial(measure_rate, name, size=options.size, sample=sample)
                rates[name].append(worker.submit(call).result())
    report(rates, differences)


def report(rates: dict[str, list[float]], differences: list[float]) -> None:
    """Print medians, and ratios of each round."""
    for name, found in rates.items():
        print(f"{name:8} {statistics.median(found):8.2f} images/s a core")
    ratios = {
        f"{name}_against_{other}": round(
            statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True)), 3
        )
        for name, other in (
            ("exact", "plain"),
            ("isolated", "exact"),
            ("fast", "exact"),
            ("fast", "plain"),
        )
    }
    mean = statistics.mean(differences)
    print(f"fast: {mean:.2f} grey levels off, {max(differences):.2f} in the worst image")
    print(json.dumps({**ratios, "difference": round(mean, 4), "images": len(differences)}))


if __name__ == "__main__":
    main()
