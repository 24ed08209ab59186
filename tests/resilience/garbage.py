"""A heap of broken, lying, hostile and odd files, with some photos among them."""

from __future__ import annotations

import atexit
import csv
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from permafrost.cache.views.features import Features
from tests.helpers.garbage import collect, flood, is_good
from tests.helpers.inputs import write_model, write_photos
from tests.helpers.litter import strew
from tests.resilience.child import run as run_command
from tests.resilience.report import Result

N_MUTANTS = 1000
N_PHOTOS = 40
LAYER = "first"
# What one thread may hold beyond a run on photos alone: the pixels of the largest image that is
# let through, at Pillow's 4 bytes, and as much again while colours are converted.
_PICTURE_BYTES = 2 * 4 * 178_956_970
_WORKERS = 2
_WAYS: Mapping[str, tuple[str, ...]] = {"threads": (), "--isolate": ("--isolate",)}


def run(seed: int) -> Result:
    """Extract a heap in threads and isolated, and compare with the good files alone."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(folder / "small.keras", exact=True)
        expected = heap_up(folder / "heap", folder / "alone", seed=seed)
        plain, plain_bytes = _extract(folder, "alone", name="alone")
        failures = []
        for way, options in _WAYS.items():
            rows, peak_bytes = _extract(folder, "heap", *options, name=way)
            wrong = _find_wrong(rows, plain) | _find_misjudged(folder / f"{way}.h5", expected)
            failures += [f"{way}, seed {seed}: {path!r} {why}" for path, why in wrong.items()]
            if peak_bytes > plain_bytes + _WORKERS * _PICTURE_BYTES:
                failures.append(f"{way}, seed {seed}: {peak_bytes:,} bytes, {plain_bytes:,} alone")
    n_files = len(_WAYS) * (len(expected) - N_PHOTOS)
    return Result(
        what="garbage among photos, in threads and isolated: read as by Keras, or its reason told",
        injected=n_files,
        survived=max(0, n_files - len(failures)),
        failures=failures,
    )


def heap_up(heap: Path, alone: Path, *, seed: int) -> dict[str, str | None]:
    """Write the heap, and beside it what of it is good.

    Returns
    -------
    dict
        Paths → a pattern of the reason, or None for what must be read.
    """
    write_photos(heap, n_each=N_PHOTOS // 2)
    expected: dict[str, str | None] = {
        str(file.relative_to(heap)): None for file in heap.rglob("*.jpg")
    }
    expected |= {os.fsdecode(name): why for name, why in strew(heap).items()}
    for specimen in [*collect(seed, n_mutants=N_MUTANTS), *flood()]:
        (heap / specimen.name).write_bytes(specimen.data)
        expected[specimen.name] = None if is_good(specimen) else specimen.reason or ""
    for path, why in expected.items():
        if why is None:
            (alone / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(heap / path, alone / path)
    return expected


def _extract(
    folder: Path, images: str, *options: str, name: str
) -> tuple[dict[str, np.ndarray], int]:
    """Extract into a cache of its own; return the rows by path and the memory it took."""
    out, peak = folder / f"{name}.h5", folder / f"{name}.peak"
    ending = run_command(
        (
            *("extract", "--images", folder / images, "--backbone", folder / "small.keras"),
            *(
                "--layers",
                LAYER,
                "--preprocess",
                "none",
                "--cache",
                folder / f"{name} cache",
                "--out",
                out,
            ),
            *("--workers", _WORKERS, *options),
        ),
        output=folder / "output",
        prepare=partial(note_peak, peak),
    )
    assert ending.status == 0, ending.last_line
    with Features(out) as features:
        rows = dict(zip(features.paths, features.read(LAYER), strict=True))
    return rows, int(peak.read_text())


def note_peak(file: Path) -> None:
    """Have this process write the most memory that it ever had when it ends."""

    def write() -> None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        file.write_text(str(1024 * int(found[1]) if found else 0))

    atexit.register(write)


def _find_wrong(rows: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> dict[str, str]:
    wrong = dict.fromkeys(rows.keys() ^ plain.keys(), "is read among garbage or alone, not both")
    for path in rows.keys() & plain.keys():
        if not np.allclose(rows[path], plain[path], rtol=1e-4, atol=1e-5):
            wrong[path] = "has other features than alone"
    return wrong


def _find_misjudged(out: Path, expected: Mapping[str, str | None]) -> dict[str, str]:
    listed = out.with_name(f"{out.name}.failures.csv")
    with listed.open(newline="", errors="surrogateescape") as file:
        told = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    wanted = {path: why for path, why in expected.items() if why is not None}
    wrong = dict.fromkeys(told.keys() ^ wanted.keys(), "is refused and should not, or not told")
    for path in told.keys() & wanted.keys():
        if not re.search(wanted[path], told[path]):
            wrong[path] = f"is said to be {told[path]!r}, not {wanted[path]!r}"
    return wrong
