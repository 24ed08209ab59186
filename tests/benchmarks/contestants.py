"""Who takes part in a benchmark: each a command line, and how it is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from permafrost.pipeline.options import FeatureOptions
from tests.benchmarks.peers import NoPeerError, PeerJob, command_idiom, command_torch
from tests.helpers import ROOT

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is the same for all contestants.

    Attributes
    ----------
    features : FeatureOptions
    arguments : tuple of str
        Of ``extract``: all but the images, the cache and the output.
    scratch : Path
        Where everything is written; holds the folders of photos.
    counts : dict of str to int
        Folder of photos below `scratch` → how many are in it: ``all``, ``peers`` (for peers, fewer
        if they take long), ``few`` (for what a start costs), ``rehearsal``.
    torch_python : Path, optional
        An interpreter that has torchvision.
    part_seconds : float
        How long each part of the work is repeated.
    """

    features: FeatureOptions
    arguments: tuple[str, ...]
    scratch: Path
    counts: Mapping[str, int]
    torch_python: Path | None
    part_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One process: wall-clock seconds from start to exit, peak memory, and what it printed last."""

    seconds: float
    peak_bytes: int
    said: str


Command = Callable[[Bench, str], list[str]]
Measure = Callable[[Command, Bench], Figures]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Someone who takes part.

    Attributes
    ----------
    title : str
        For the table.
    command : callable
        Returns its command line on one of the folders of photos.
    measure : callable
        Runs the command and returns figures, of these: ``n_images``, ``seconds``,
        ``whole_images_per_s`` (start to exit), ``steady_images_per_s`` (without what a start
        costs), ``peak_bytes``, ``summary`` (what the process says of itself); for a part of the
        work ``images_per_s`` and others.
    """

    title: str
    command: Command
    measure: Measure


def run_measured(command: list[str]) -> Run:
    """Run a command; it must succeed."""
    # What the last one left to be written shall not be written at this one's expense.
    os.sync()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        started_s = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=complaints)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            sys.exit(f"{' '.join(command)} failed:\n{_read(complaints)}")
        lines = _read(output).splitlines()
    return Run(seconds, usage.ru_maxrss * 1024, lines[-1] if lines else "")


def run_anew(command: list[str], scratch: Path) -> Run:
    """Run a command on an empty cache, which it leaves behind; what it writes is removed."""
    shutil.rmtree(scratch / "cache", ignore_errors=True)
    run = run_measured(command)
    (scratch / "out.h5").unlink(missing_ok=True)
    return run


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def measure_whole(command: Command, bench: Bench, *, photos: str = "all") -> Figures:
    """Measure a process on all photos, and on a few to find out what its start costs."""
    few = run_anew(command(bench, "few"), bench.scratch)
    full = run_anew(command(bench, photos), bench.scratch)
    return {
        **_describe(full, bench.counts[photos]),
        "few_seconds": few.seconds,
        "steady_images_per_s": divide_difference(
            bench.counts[photos] - bench.counts["few"], full.seconds - few.seconds
        ),
    }


def measure_again(command: Command, bench: Bench) -> Figures:
    """Measure a process that finds its work done in the cache."""
    return _describe(run_measured(command(bench, "all")), bench.counts["all"])


def measure_part(command: Command, bench: Bench) -> Figures:
    """Have a process measure a part of the work; it prints the figures."""
    figures: Figures = json.loads(run_anew(command(bench, "all"), bench.scratch).said)
    return figures


def divide_difference(n_images: int, seconds: float) -> float | None:
    """Return images a second, if there is a difference to tell it from."""
    return n_images / seconds if n_images > 0 and seconds > 0 else None


def _describe(run: Run, n_images: int) -> Figures:
    summary = {"summary": json.loads(run.said)} if run.said.startswith("{") else {}
    return {
        "n_images": n_images,
        "seconds": run.seconds,
        "whole_images_per_s": n_images / run.seconds,
        "peak_bytes": run.peak_bytes,
        **summary,
    }


def _extract(bench: Bench, photos: str) -> list[str]:
    return [
        *("--images", str(bench.scratch / photos), *bench.arguments),
        *("--cache", str(bench.scratch / "cache"), "--out", str(bench.scratch / "out.h5")),
    ]


def _command_ours(bench: Bench, photos: str) -> list[str]:
    return [sys.executable, "run.py", "extract", *_extract(bench, photos), "--json"]


def _command_part(bench: Bench, photos: str, *, part: str) -> list[str]:
    asked = (part, "--seconds", str(bench.part_seconds))
    return [sys.executable, "-m", "tests.benchmarks.parts", *asked, *_extract(bench, photos)]


def _give_peer(bench: Bench, photos: str) -> PeerJob:
    return PeerJob(bench.features, bench.scratch / photos, bench.scratch / "out.h5")


def _command_idiom(bench: Bench, photos: str) -> list[str]:
    return command_idiom(_give_peer(bench, photos))


def _command_torch(bench: Bench, photos: str, *, options: tuple[str, ...]) -> list[str]:
    return command_torch(_give_peer(bench, photos), bench.torch_python, *options)


def _add_torch(title: str, *options: str) -> Contestant:
    return Contestant(title, partial(_command_torch, options=options), _measure_peer)


def _add_part(title: str, part: str) -> Contestant:
    return Contestant(title, partial(_command_part, part=part), measure_part)


_measure_peer = partial(measure_whole, photos="peers")
_CHANNELS_LAST = ("--layout", "channels_last")

# In the order in which they run: who finds work done comes after whoever did it.
PROCESSES: Mapping[str, Contestant] = {
    "ours": Contestant("`extract`", _command_ours, measure_whole),
    "ours-reused": Contestant("`extract` again, nothing to do", _command_ours, measure_again),
    "idiom": Contestant("Keras idiom", _command_idiom, _measure_peer),
    "torch": _add_torch("torchvision"),
    "torch-channels-last": _add_torch("torchvision, channels last", *_CHANNELS_LAST),
}
PARTS: Mapping[str, Contestant] = {
    "floor": _add_part("floor: the same program, batches in memory", "floor"),
    "decode": _add_part("decoding alone", "decode"),
    "write": _add_part("writing alone", "write"),
    "matmul": _add_part("matrix product", "matmul"),
}


def list_contestants(features: FeatureOptions) -> dict[str, Contestant]:
    """List who can take part; in half precision PyTorch does so in that, too."""
    precision = features.precision
    if precision == "float32":
        return {**PROCESSES, **PARTS}
    autocast = ("--autocast", precision)
    half = {
        f"torch-{precision}": _add_torch(f"torchvision, {precision}", *autocast),
        f"torch-channels-last-{precision}": _add_torch(
            f"torchvision, channels last, {precision}", *_CHANNELS_LAST, *autocast
        ),
    }
    return {**PROCESSES, **half, **PARTS}


def rehearse(contestant: Contestant, bench: Bench) -> str | None:
    """Run once on a few photos, which does not count; return why that cannot be, if it cannot.

    It finds out early what does not work, and brings programs and libraries into memory.
    """
    try:
        command = contestant.command(replace(bench, part_seconds=0.0), "rehearsal")
    except NoPeerError as error:
        return str(error)
    run_anew(command, bench.scratch)
    return None
