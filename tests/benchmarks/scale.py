"""A run with nothing to do, from ten thousand to a million rows: whole processes.

python -m tests.benchmarks.scale [--rows 10000,100000,1000000] [--shapes SHAPES] [--folder FOLDER]

Makes that many files of eight bytes, a manifest of them, and a cache that holds a tiny feature of
each, all through our own writers; then ``plan`` and ``extract`` run as people run them. The
first ``plan`` hashes the files, the second does not; the first ``extract`` writes the view, the
second finds it there; opening reads ``features.h5`` from Python, in order and shuffled.

Shapes: ``contiguous``, shards of 50,000 rows in the manifest's order; ``half``, a random half of
such a cache in random order; ``grown``, where one photo in a hundred is new and lies in a shard
of its own, between the others in the manifest; ``small``, in shards of 2,000 rows.
Cores that others use, too, show in the wall clock, hardly in the processor time; what one row costs
beyond the start of a process is seen by comparing the lines.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import join_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.recipe import build_recipe
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from tests.helpers import ROOT
from tests.helpers.inputs import write_model

LAYER = "last:avg"
FILES_PER_FOLDER = 1000
INNER = ("opened_s", "batch_s", "shuffled_s")
OPEN = f"""
import json, sys, time
import numpy as np
from pathlib import Path
from permafrost import open_features
from permafrost.cache.views.features import Features
started_s = time.perf_counter()
with open_features(sys.argv[1]) as features:
    facts = len(features), features.shape({LAYER!r}), features.labels[-1]
    opened_s = time.perf_counter() - started_s
    batch = next(iter(features.iterate({LAYER!r}, batch_size=256)))
batch_s = time.perf_counter() - started_s - opened_s
with Features(Path(sys.argv[1])) as features:
    rows = np.random.default_rng(0).permutation(len(features))[:65536]
    started_s = time.perf_counter()
    for _ in range(2):
        features.read({LAYER!r}, rows)
shuffled_s = time.perf_counter() - started_s
print(json.dumps(dict(opened_s=opened_s, batch_s=batch_s, shuffled_s=shuffled_s)))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One process: seconds of wall clock and of processor, the most memory, and what it said."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    output: str


def run_measured(*command: str) -> Measured:
    """Run Python with these arguments; it must succeed."""
    started_s = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started_s
        said.seek(0)
        output = said.read().decode()
    if status:
        sys.exit(output)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(seconds, cpu_s, usage.ru_maxrss * 1024, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Numbers of images: those of the manifest, and those of the cache, in their orders."""

    rows: np.ndarray
    cached: np.ndarray
    rows_per_shard: int = 50_000


def lay_out(shape: str, n_rows: int) -> Shape:
    """Return the rows of a shape."""
    rows, random = np.arange(n_rows), np.random.default_rng(0)
    if shape == "half":
        cached = np.arange(2 * n_rows)
        return Shape(rows=random.permutation(cached)[:n_rows], cached=cached)
    if shape == "grown":
        is_new = random.random(n_rows) < 0.01
        return Shape(rows=rows, cached=np.concatenate([rows[~is_new], rows[is_new]]))
    return Shape(rows=rows, cached=rows, rows_per_shard=2000 if shape == "small" else 50_000)


def digest_image(number: int) -> bytes:
    """Return the digest of an image's eight bytes."""
    return hashlib.sha256(number.to_bytes(8)).digest()


def write_images(root: Path, numbers: list[int]) -> Iterator[tuple[str, bytes]]:
    """Write files, each of another eight bytes; yield their paths and digests."""
    for folder in {number // FILES_PER_FOLDER for number in numbers}:
        (root / f"{folder:04d}").mkdir(parents=True)
    for number in numbers:
        path = f"{number // FILES_PER_FOLDER:04d}/{number:07d}.png"
        (root / path).write_bytes(number.to_bytes(8))
        yield path, digest_image(number)


def write_dataset(folder: Path, n_rows: int, shape: str = "contiguous") -> None:
    """Write images and the manifest that ``index`` would write."""
    layout = lay_out(shape, n_rows)
    paths, digests = zip(*write_images(folder / "images", layout.rows.tolist()), strict=True)
    manifest = Manifest(
        root=str(folder / "images"),
        paths=list(paths),
        labels=[path[:4] for path in paths],
        splits=["train" if number % 5 else "test" for number in range(n_rows)],
        digests=Digests.of(digests),
    )
    write_manifest(manifest, folder / "manifest.csv")
    fill_cache(open_cache(folder / "cache"), folder / "model.keras", layout)


def fill_cache(layout: CacheLayout, model: Path, shape: Shape) -> None:
    """Write a feature of each image, as a run that computed it would."""
    with Index(layout.index_file) as index:
        options = FeatureOptions(backbone=str(write_model(model)), layers=(LAYER,))
        backbone = Backbone(options, index)
        recipe = build_recipe(options, backbone, backbone.layers[0])
        features = FeatureSet(layout, recipe, index)
        for start in range(0, len(shape.cached), shape.rows_per_shard):
            numbers = shape.cached[start : start + shape.rows_per_shard].tolist()
            known = join_digests([digest_image(number) for number in numbers])
            writer = ShardWriter(
                open_feature_set_folder(layout, recipe),
                key=features.key,
                row=RowFormat(shape=(16,), dtype="float32"),
                n_rows=len(known),
            )
            writer.append(known, known[:, :16].astype(np.float32))
            features.add(writer.publish(), known)


def make_dataset(folder: Path, n_rows: int, shape: str = "contiguous") -> None:
    """Write the dataset elsewhere: processes that start from here inherit the peak memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(write_dataset, folder, n_rows, shape).result()


def list_options(folder: Path) -> list[str]:
    """Return the options of ``plan`` and ``extract`` for the dataset in a folder."""
    return [
        "--manifest", str(folder / "manifest.csv"), "--backbone", str(folder / "model.keras"),
        "--layers", LAYER, "--cache", str(folder / "cache"), "--out", str(folder / "features.h5"),
        "--json",
    ]  # fmt: skip


def measure(folder: Path) -> dict[str, Measured]:
    """Run each command on the dataset."""
    work = list_options(folder)
    found = {name: run_measured("run.py", "plan", *work) for name in ("plan, hashing", "plan")}
    if json.loads(found["plan"].output)["to_compute"]:
        sys.exit("plan finds rows to compute, where all of them exist")
    for name in ("extract, view", "extract"):
        found[name] = run_measured("run.py", "extract", *work)
    found["open"] = run_measured("-c", OPEN, str(folder / "features.h5"))
    return found


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--shapes", default="contiguous,half,grown,small", help="see above")
    options = parser.parse_args()
    figures = {}
    for n_rows, shape in itertools.product(options.rows.split(","), options.shapes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            make_dataset(Path(folder), int(n_rows), shape)
            found = measure(Path(folder))
        figures[f"{n_rows} {shape}"] = {name: describe(run) for name, run in found.items()}
        report(int(n_rows), shape, found)
    print(json.dumps({**figures, "load": os.getloadavg()}))


def describe(run: Measured) -> dict[str, float]:
    """Return the figures of a process, with those that it printed itself when it opened a view."""
    own = json.loads(run.output)
    inner = {name: own[name] for name in INNER if name in own}
    return {"seconds": run.seconds, "cpu_s": run.cpu_s, "peak_bytes": run.peak_bytes, **inner}


def report(n_rows: int, shape: str, found: dict[str, Measured]) -> None:
    """Print a line a command."""
    for name, run in found.items():
        print(
            f"{n_rows:9,} {shape:10}  {name:14} {run.seconds:7.2f} s  {run.cpu_s:7.2f} s CPU"
            f"  {1e6 * run.cpu_s / n_rows:7.2f} µs CPU a row  {run.peak_bytes / 1e6:6.0f} MB"
        )
    inner = describe(found["open"])
    print("  ".join(f"{name} {inner[name]:.2f}" for name in INNER), flush=True)


if __name__ == "__main__":
    main()
