"""Reading a cached layer into memory: ours, np.fromfile, numpy.memmap and plain h5py.

python -m tests.benchmarks.reading [--rows 131072] [--rounds 7] [--compressions none,lz4]
    [--chunks 65536 524288 4194304]

Writes a layer of small rows (512 values) and one of as many bytes in wide rows (VGG16's
block2_pool, 401,408 values) into a temporary folder: half of the values are 0, as behind a ReLU.
Each round reads them in every way in turn: all rows in order, all of them shuffled, and a tenth of
them, drawn at random. All of it lies in the page cache and goes into fresh memory. Figures are
medians, a ratio is the median of the rounds' own; and the same in processor time, in which others
on the machine count for little, nor does a second thread. ``--chunks`` compares chunks of so many
bytes at most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import permafrost.cache.shards.format
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import RowLocations, join_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.views.features import Features
from permafrost.cache.views.writer import ViewImages, ViewLayer, write_view

SHAPES = {"small": (512,), "wide": (56, 56, 128)}
SHARD_BYTES = 256 * 2**20
RECIPE: Recipe = {"backbone": "random", "layer": "layer", "pooling": "none"}
LAYER = "layer"
# What the others are compared with.
BASES = {"in order": "np.fromfile", "shuffled": "numpy.memmap", "a tenth": "numpy.memmap"}

Read = Callable[[], Any]
# Of each way to read: the seconds of each round, and those of the processor.
Seconds = dict[tuple[str, str], list[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A layer, as a raw file and as a cache with its view."""

    raw: Path
    view: Path
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return 4 * math.prod(self.shape)


def make_blocks(row_shape: tuple[int, ...], n_rows: int) -> Iterator[np.ndarray]:
    """Make the rows of one shard at a time."""
    random = np.random.default_rng(0)
    step = max(1, SHARD_BYTES // (4 * math.prod(row_shape)))
    for start in range(0, n_rows, step):
        n_block = min(step, n_rows - start)
        yield np.maximum(random.standard_normal((n_block, *row_shape), dtype=np.float32), 0)


def write_layer(folder: Path, row: RowFormat, n_rows: int) -> Written:
    """Write the same values as a raw file, and as shards with a view."""
    digests = join_digests(
        [hashlib.sha256(str(number).encode()).digest() for number in range(n_rows)]
    )
    names: list[str] = []
    place = np.empty((n_rows, 2), np.int64)
    start = 0
    with (folder / "raw.bin").open("wb") as raw:
        for block in make_blocks(row.shape, n_rows):
            block.tofile(raw)
            stop = start + len(block)
            writer = ShardWriter(folder, key=recipe_key(RECIPE), row=row, n_rows=len(block))
            writer.append(digests[start:stop], block)
            place[start:stop] = np.stack(
                [np.full(len(block), len(names)), np.arange(len(block))], 1
            )
            names.append(writer.publish().name)
            start = stop
    texts = [str(number) for number in range(n_rows)]
    images = ViewImages(root="", paths=texts, labels=texts, splits=texts, digests=digests)
    locations = RowLocations(shards=names, shard=place[:, 0].astype(np.int32), row=place[:, 1])
    layer = ViewLayer(spec=LAYER, recipe=RECIPE, folder=folder, row=row, locations=locations)
    write_view(folder / "features.h5", images, [layer])
    return Written(raw=folder / "raw.bin", view=folder / "features.h5", shape=(n_rows, *row.shape))


def list_reads(written: Written, features: Features) -> dict[str, dict[str, Read]]:
    """Return the ways to read, by what is read; the base of each comes first."""
    mapped = np.memmap(written.raw, np.float32, "r", shape=written.shape)
    shuffled = np.random.default_rng(1).permutation(len(mapped))
    tenth = shuffled[: max(1, len(shuffled) // 10)]

    def read_plainly() -> Any:
        with h5py.File(written.view, locking=False) as file:
            return file[f"features/{LAYER}"][()]

    return {
        "in order": {
            "np.fromfile": lambda: np.fromfile(written.raw, np.float32),
            "numpy.memmap": lambda: np.array(mapped),
            "ours": lambda: features.read(LAYER),
            "plain h5py": read_plainly,
        },
        "shuffled": {
            "numpy.memmap": lambda: mapped[shuffled],
            "ours": lambda: features.read(LAYER, shuffled),
        },
        "a tenth": {
            "numpy.memmap": lambda: mapped[tenth],
            "ours": lambda: features.read(LAYER, tenth),
        },
    }


def check_reads(reads: dict[str, dict[str, Read]]) -> None:
    """Make sure that all ways read the same; which also fills the page cache."""
    for ways in reads.values():
        expected, *others = (read().reshape(-1) for read in ways.values())
        for found in others:
            np.testing.assert_array_equal(found, expected)


def time_reads(reads: dict[str, dict[str, Read]], n_rounds: int) -> Seconds:
    """Time each way in each round."""
    seconds: Seconds = {}
    for _ in range(n_rounds):
        for what, ways in reads.items():
            for name, read in ways.items():
                started = time.perf_counter(), time.process_time()
                values = read()
                taken = time.perf_counter() - started[0], time.process_time() - started[1]
                seconds.setdefault((what, name), []).append(taken)
                del values
    return seconds


def report(title: str, seconds: Seconds, n_bytes: int) -> dict[str, dict[str, float]]:
    """Print and return gigabytes a second and ratios."""
    print(title)
    figures = {}
    for (what, name), rounds in seconds.items():
        n_read = n_bytes / 10 if what == "a tenth" else n_bytes
        rate, cpu_rate = (
            n_read / statistics.median(each) / 1e9 for each in zip(*rounds, strict=True)
        )
        pairs = list(zip(seconds[what, BASES[what]], rounds, strict=True))
        ratio, cpu_ratio = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        print(
            f"  {what:9} {name:13} {rate:6.2f} GB/s, {ratio:.2f} of {BASES[what]};"
            f" processor {cpu_rate:6.2f} GB/s, {cpu_ratio:.2f}"
        )
        figures[f"{what}, {name}"] = {
            "gigabytes_per_second": rate,
            "ratio": ratio,
            "gigabytes_per_processor_second": cpu_rate,
            "processor_ratio": cpu_ratio,
        }
    return figures


def measure(row: RowFormat, n_rows: int, n_rounds: int) -> dict[str, dict[str, float]]:
    """Write one layer and read it in every way."""
    with tempfile.TemporaryDirectory() as folder:
        written = write_layer(Path(folder), row, n_rows)
        chunk_bytes = 4 * math.prod(permafrost.cache.shards.format.choose_chunk(row, n_rows))
        with Features(written.view) as features:
            reads = list_reads(written, features)
            check_reads(reads)
            seconds = time_reads(reads, n_rounds)
        title = f"{n_rows} rows of {row.shape}, {row.compression}, chunks of {chunk_bytes} bytes"
        return {title: report(title, seconds, written.n_bytes)}


def main() -> None:
    """Run the benchmark and print tables and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=131_072, help="small ones; 2048 bytes each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", default="small,wide")
    parser.add_argument("--compressions", default="none,lz4")
    parser.add_argument("--chunks", type=int, nargs="*", help="bytes; else the program's own sizes")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for chunk_bytes in options.chunks or [None]:
        if chunk_bytes is not None:
            permafrost.cache.shards.format.CHUNK_BYTES = (
                permafrost.cache.shards.format.LARGEST_CHUNK_BYTES
            ) = chunk_bytes
        for name in options.shapes.split(","):
            shape = SHAPES[name]
            n_rows = max(10, options.rows * math.prod(SHAPES["small"]) // math.prod(shape))
            for compression in options.compressions.split(","):
                row = RowFormat(shape=shape, dtype="float32", compression=compression)
                figures |= measure(row, n_rows, options.rounds)
    print(json.dumps({**figures, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
