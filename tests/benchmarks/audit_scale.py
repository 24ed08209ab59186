"""Seconds and peak memory of ``audit`` and ``select`` on many synthetic rows.

python -m tests.benchmarks.audit_scale [--rows 100000] [--columns 512] [--memory 2GB]

Ten clusters of Gaussian features, 2 % of the labels wrong; there are no pictures. Half of the rows
have no label for ``select``. Each command is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from tests.helpers import ROOT
from tests.helpers.views import ORIGIN


def write_rows(file: Path, *, n_rows: int, n_columns: int, share: float) -> None:
    """Write a file of features; `share` of the rows have a label."""
    rng = np.random.default_rng(0)
    codes = rng.integers(10, size=n_rows)
    centres = rng.normal(size=(10, n_columns)).astype(np.float32)
    labels = np.where(rng.random(n_rows) < 0.02, rng.integers(10, size=n_rows), codes)
    texts = [f"class {n}" if known else "" for n, known in zip(
        labels.tolist(), (rng.random(n_rows) < share).tolist(), strict=True)]  # fmt: skip
    with h5py.File(file, "w") as opened:
        opened.attrs["origin"] = ORIGIN
        images = opened.create_group("images")
        images.attrs["root"] = "nowhere"
        images["digest"] = rng.integers(256, size=(n_rows, 32)).astype(np.uint8)
        images["path"] = [f"{n:07d}.png" for n in rng.permutation(n_rows).tolist()]
        images["label"], images["split"] = texts, [""] * n_rows
        node = opened.create_dataset("features/block:avg", (n_rows, n_columns), "f4")
        for start in range(0, n_rows, 10_000):
            some = slice(start, start + 10_000)
            noise = rng.standard_normal((len(codes[some]), n_columns), dtype=np.float32)
            node[some] = np.maximum(centres[codes[some]] * 0.3 + noise, 0)
        node.attrs["recipe"] = json.dumps({"backbone": "b", "layer": "block", "pooling": "avg"})


def measure(*arguments: object) -> str:
    """Run a command; return its seconds, those of processors, and its peak memory."""
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    figures = json.loads(output.splitlines()[-1]) if status == 0 else {"seconds": float("nan")}
    cpu_s = usage.ru_utime + usage.ru_stime
    peak_gb = usage.ru_maxrss * 1024 / 1e9
    return f"{figures['seconds']:.1f} s, {cpu_s:.1f} s of processors, peak {peak_gb:.2f} GB"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--memory", default="2GB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for command, share in (("audit", 1.0), ("select", 0.5)):
            view, out = Path(name) / f"{command}.h5", Path(name) / command
            write_rows(view, n_rows=given.rows, n_columns=given.columns, share=share)
            options = ("--out", out) if command == "audit" else ("-n", 100, "--out", out)
            figures = measure(
                *(command, "--features", view, "--layer", "block:avg"),
                *("--memory", given.memory, *options),
            )
            print(f"{command:8} {given.rows} rows x {given.columns}: {figures}", flush=True)


if __name__ == "__main__":
    main()
