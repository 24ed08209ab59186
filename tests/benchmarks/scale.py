"""A run with nothing to do, from ten thousand to a million rows: whole processes.

python -m tests.benchmarks.scale [--rows 10000,100000,1000000] [--folder FOLDER]

Makes that many files of eight bytes, a manifest of them, and a cache that holds a tiny feature of
each, all through our own writers; then ``plan`` and ``extract`` run as people run them. The
first ``plan`` hashes the files, the second does not; opening reads ``features.h5`` from Python.
Cores that others use, too, show in the wall clock, hardly in the processor time; what one row costs
beyond the start of a process is seen by comparing the lines.
"""

from __future__ import annotations

import argparse
import hashlib
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
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from tests.helpers import ROOT
from tests.helpers.inputs import write_model

LAYER = "last:avg"
FILES_PER_FOLDER = 1000
ROWS_PER_SHARD = 50_000
OPEN = f"""
import json, sys, time
from permafrost import open_features
started_s = time.perf_counter()
with open_features(sys.argv[1]) as features:
    facts = len(features), features.shape({LAYER!r}), features.labels[-1]
    opened_s = time.perf_counter() - started_s
    batch = next(iter(features.iterate({LAYER!r}, batch_size=256)))
batch_s = time.perf_counter() - started_s - opened_s
print(json.dumps(dict(opened_s=opened_s, batch_s=batch_s)))
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


def write_images(root: Path, n_rows: int) -> Iterator[tuple[str, bytes]]:
    """Write files, each of another eight bytes; yield their paths and digests."""
    for number in range(n_rows):
        content = number.to_bytes(8)
        path = f"{number // FILES_PER_FOLDER:04d}/{number:07d}.png"
        if number % FILES_PER_FOLDER == 0:
            (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(content)
        yield path, hashlib.sha256(content).digest()


def write_dataset(folder: Path, n_rows: int) -> None:
    """Write images and the manifest that ``index`` would write."""
    paths, digests = zip(*write_images(folder / "images", n_rows), strict=True)
    manifest = Manifest(
        root=str(folder / "images"),
        paths=list(paths),
        labels=[path[:4] for path in paths],
        splits=["train" if number % 5 else "test" for number in range(n_rows)],
        digests=list(digests),
    )
    write_manifest(manifest, folder / "manifest.csv")
    fill_cache(open_cache(folder / "cache"), folder / "model.keras", manifest.digests)


def fill_cache(layout: CacheLayout, model: Path, digests: list[bytes]) -> None:
    """Write a feature of each image, as a run that computed it would."""
    with Index(layout.index_file) as index:
        options = FeatureOptions(backbone=str(write_model(model)), layers=(LAYER,))
        backbone = Backbone(options, index)
        recipe = build_recipe(options, backbone, backbone.layers[0])
        features = FeatureSet(layout, recipe, index)
        for start in range(0, len(digests), ROWS_PER_SHARD):
            known = join_digests(digests[start : start + ROWS_PER_SHARD])
            writer = ShardWriter(
                open_feature_set_folder(layout, recipe),
                key=features.key,
                row=RowFormat(shape=(16,), dtype="float32"),
                n_rows=len(known),
            )
            writer.append(known, known[:, :16].astype(np.float32))
            features.add(writer.publish(), known)


def make_dataset(folder: Path, n_rows: int) -> None:
    """Write the dataset elsewhere: processes that start from here inherit the peak memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(write_dataset, folder, n_rows).result()


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
    found["extract"] = run_measured("run.py", "extract", *work)
    found["open"] = run_measured("-c", OPEN, str(folder / "features.h5"))
    return found


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    options = parser.parse_args()
    figures = {}
    for n_rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            make_dataset(Path(folder), n_rows)
            found = measure(Path(folder))
        figures[n_rows] = {name: describe(run) for name, run in found.items()}
        report(n_rows, found)
    print(json.dumps({**figures, "load": os.getloadavg()}))


def describe(run: Measured) -> dict[str, float]:
    """Return the figures of a process, with those that it printed itself when it opened a view."""
    own = json.loads(run.output)
    inner = {name: own[name] for name in ("opened_s", "batch_s") if name in own}
    return {"seconds": run.seconds, "cpu_s": run.cpu_s, "peak_bytes": run.peak_bytes, **inner}


def report(n_rows: int, found: dict[str, Measured]) -> None:
    """Print a line a command."""
    for name, run in found.items():
        print(
            f"{n_rows:9,} rows  {name:14} {run.seconds:7.2f} s  {run.cpu_s:7.2f} s CPU"
            f"  {1e6 * run.cpu_s / n_rows:7.2f} µs CPU a row  {run.peak_bytes / 1e6:6.0f} MB"
        )


if __name__ == "__main__":
    main()
