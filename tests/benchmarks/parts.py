"""One part of an extraction alone, on all cores, in a process of its own; prints JSON.

python -m tests.benchmarks.parts floor|decode|load|write|matmul --seconds S [the options of extract]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np

from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.cli.groups import read_extract_options
from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch, split_batches
from permafrost.pipeline.forward.loader import Load, Loaders, LoaderThreads, load_ahead
from permafrost.pipeline.forward.program import build_program
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.stages.decoding.decode import decode_image
from permafrost.stages.frameworks.start import start_tensorflow

_LARGEST_BATCHES_BYTES = 512 * 1024 * 1024
_SHARD_BYTES = 256 * 1024 * 1024
_PRODUCT_SIZE = 4096
_FEWEST_ROUNDS = 5

Figures = dict[str, float]
Measure = Callable[[ExtractOptions, Preparation, float], Figures]


def read_options(arguments: Sequence[str]) -> ExtractOptions:
    """Read options of ``extract``."""
    return read_extract_options(build_parser().parse_args(["extract", *arguments]))


def repeat(act: Callable[[], object], *, seconds: float) -> float:
    """Return how many times a second `act` is done, after a first time that does not count."""
    act()
    started_s = stopped_s = time.perf_counter()
    n_done = 0
    while n_done == 0 or stopped_s - started_s < seconds:
        act()
        n_done += 1
        stopped_s = time.perf_counter()
    return n_done / (stopped_s - started_s)


def measure_floor(options: ExtractOptions, prepared: Preparation, seconds: float) -> Figures:
    """Run the program of the extraction on its batches, decoded beforehand."""
    batches = load_batches(options, prepared)
    program = build_program(options.features, prepared)
    waiting = itertools.cycle(batches)
    with ThreadPoolExecutor(program.n_at_once) as threads:
        # One more than are at work, so that none waits for the next to be handed over.
        running = deque(
            threads.submit(program, next(waiting)) for _ in range(program.n_at_once + 1)
        )

        def take_one() -> None:
            running.popleft().result()
            running.append(threads.submit(program, next(waiting)))

        rate = repeat(take_one, seconds=seconds)
        threads.shutdown(cancel_futures=True)
    return {"images_per_s": rate * len(batches[0])}


def load_batches(options: ExtractOptions, prepared: Preparation) -> list[np.ndarray]:
    """Decode as many whole batches as there are, within bounds."""
    spec = prepared.decode
    batch_bytes = prepared.fitting.batch_size * spec.height * spec.width * spec.channels
    n_images = prepared.fitting.batch_size * max(1, _LARGEST_BATCHES_BYTES // batch_bytes)
    photos = read_photos(prepared)[:n_images]
    with ThreadPoolExecutor(options.run.workers) as threads:
        pixels = list(threads.map(lambda data: decode_image(data, spec).pixels, photos))
    size = min(len(pixels), prepared.fitting.batch_size)
    starts = range(0, len(pixels) - size + 1, size)
    return [np.stack(pixels[start : start + size]) for start in starts]


def read_photos(prepared: Preparation) -> list[bytes]:
    """Read all files."""
    return [prepared.dataset.source.read(path) for path in prepared.plan.paths]


def measure_decoding(options: ExtractOptions, prepared: Preparation, seconds: float) -> Figures:
    """Decode all photos from memory in as many threads as the extraction has."""
    photos = read_photos(prepared)
    with ThreadPoolExecutor(options.run.workers) as threads:

        def decode_all() -> None:
            for _ in threads.map(lambda data: decode_image(data, prepared.decode), photos):
                pass

        return {"images_per_s": repeat(decode_all, seconds=seconds) * len(photos)}


class PlainThreads:
    """Loads batches in threads, and knows nothing of Dask."""

    def __init__(self, n_workers: int) -> None:
        self._pool = ThreadPoolExecutor(n_workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def submit(self, load: Load, task: BatchTask) -> Callable[[], LoadedBatch]:
        return self._pool.submit(load, task).result


def measure_loading(options: ExtractOptions, prepared: Preparation, seconds: float) -> Figures:
    """Load all batches as the extraction does, and in plain threads, in turn; medians."""
    openers: Mapping[str, Callable[[], AbstractContextManager[Loaders]]] = {
        "": lambda: LoaderThreads(options.run.n_threads),
        "plain_": lambda: PlainThreads(options.run.workers),
    }
    plan, found = prepared.plan, defaultdict(list)
    rows = np.arange(len(plan.paths))
    stop_s = time.monotonic() + seconds
    while time.monotonic() < stop_s or len(found["start_s"]) < _FEWEST_ROUNDS:
        for name, open_them in openers.items():
            tasks = split_batches(
                plan.paths, plan.digests, rows, batch_size=prepared.fitting.batch_size
            )
            started_s = time.perf_counter()
            with open_them() as loaders:
                batches = load_ahead(loaders, prepared, tasks, n_workers=options.run.workers)
                n_images = len(next(batches).rows)
                first_s = time.perf_counter()
                n_more = sum(len(batch.rows) for batch in batches)
                stopped_s = time.perf_counter()
            found[f"{name}images_per_s"].append((n_images + n_more) / (stopped_s - started_s))
            found[f"{name}start_s"].append(first_s - started_s)
    first = {"first_start_s": found["start_s"][0]}  # with Dask's import
    return first | {name: statistics.median(values) for name, values in found.items()}


def measure_writing(options: ExtractOptions, prepared: Preparation, seconds: float) -> Figures:
    """Write activations of the right shapes into shards, one of each layer, until they are safe."""
    layers = prepared.plan.layers
    generator = np.random.default_rng(0)
    size = prepared.fitting.batch_size
    batch = [
        np.maximum(generator.standard_normal((size, *layer.row.shape), np.float32), 0)
        for layer in layers
    ]
    n_batches = max(1, _SHARD_BYTES // (size * max(layer.row.row_bytes for layer in layers)))

    def write_shards() -> None:
        for layer, values in zip(layers, batch, strict=True):
            folder = layer.features.folder
            writer = ShardWriter(folder, key="", row=layer.row, n_rows=n_batches * size)
            for _ in range(n_batches):
                writer.append(generator.integers(256, size=(size, 32), dtype=np.uint8), values)
            writer.publish().unlink()

    images_per_s = repeat(write_shards, seconds=seconds) * n_batches * size
    image_bytes = sum(layer.row.row_bytes for layer in layers)
    return {"images_per_s": images_per_s, "bytes_per_s": images_per_s * image_bytes}


def measure_products(options: ExtractOptions, _: Preparation, seconds: float) -> Figures:
    """Multiply large matrices, in the precision of the extraction, too."""
    start_tensorflow()
    import tensorflow as tf

    found = {}
    for precision in dict.fromkeys(("float32", options.features.precision)):
        matrix = tf.cast(tf.random.normal((_PRODUCT_SIZE, _PRODUCT_SIZE)), precision)

        def multiply(matrix: Any = matrix) -> None:
            tf.linalg.matmul(matrix, matrix).numpy()

        rate = repeat(multiply, seconds=seconds)
        found[f"{precision}_flop_per_s"] = rate * 2 * _PRODUCT_SIZE**3
    return found


PARTS: Mapping[str, Measure] = {
    "floor": measure_floor,
    "decode": measure_decoding,
    "load": measure_loading,
    "write": measure_writing,
    "matmul": measure_products,
}


def main() -> None:
    """Measure one part and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--seconds", type=float, required=True)
    own, others = parser.parse_known_args()
    options = read_options(others)
    layout = open_cache(options.cache)
    with Index(layout.index_file) as index:
        prepared = prepare(options, layout, index)
        for layer in prepared.plan.layers:
            open_feature_set_folder(layout, layer.recipe)
        print(json.dumps(PARTS[own.part](options, prepared, own.seconds)))


if __name__ == "__main__":
    main()
