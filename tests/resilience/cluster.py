"""Workers of a cluster are killed, stopped, woken and added at random moments of a run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.helpers import ROOT
from tests.helpers.clusters import DaskCluster, wait_for
from tests.helpers.extracted import read_plain
from tests.helpers.inputs import LAYERS, write_model, write_photos
from tests.resilience.report import Result, sum_up

_N_TRIALS = 20
_N_IMAGES = 400
# A run that takes longer hangs.
_LONGEST_S = 300.0
_WOKEN_S = 25.0
# So that a run takes some seconds, whatever the machine; Dask may run this twice in one process.
_SLOW = """
import time
from permafrost.pipeline.forward import batch

def decode_slowly(data, spec, decode=batch.decode_image):
    time.sleep(0.02)
    return decode(data, spec)

batch.decode_image = decode_slowly
"""


def run(seed: int) -> Result:
    """Disturb one worker of two in each run."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", n_each=_N_IMAGES // 2, side=50)
        write_model(folder / "small.keras", exact=True)
        preload = folder / "slow.py"
        preload.write_text(_SLOW)
        alone = _Run(folder, "alone")
        assert alone.process.wait() == 0
        expected = alone.read()
        with DaskCluster(folder / "dask") as cluster:
            for _ in range(2):
                cluster.add_worker("--preload", preload)
            started_s = time.monotonic()
            assert _Run(folder, "undisturbed", cluster.address).process.wait() == 0
            lasts_s = time.monotonic() - started_s
            outcomes = [
                _try(folder, cluster, preload, expected, number, chance, lasts_s)
                for number in range(_N_TRIALS)
            ]
    return sum_up(
        "a Dask worker killed, stopped, stopped and woken, or added at a random moment of extract"
        " --scheduler: the features of one process, bit for bit",
        outcomes,
    )


class _Run:
    """``extract`` into a folder of its own."""

    def __init__(self, home: Path, name: str, scheduler: str = "") -> None:
        self.folder = home / name
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "run.py"), "extract", "--images", home / "photos"),
                *("--backbone", home / "small.keras", "--layers", LAYERS, "--batch-size", "4"),
                *("--cache", self.folder / "cache", "--out", self.folder / "features.h5"),
                *(("--scheduler", scheduler) if scheduler else ()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, np.ndarray]:
        file = self.folder / "features.h5"
        return {layer: read_plain(file, layer) for layer in LAYERS.split(",")}


def _try(  # noqa: PLR0917
    folder: Path,
    cluster: DaskCluster,
    preload: Path,
    expected: Mapping[str, np.ndarray],
    number: int,
    chance: random.Random,
    lasts_s: float,
) -> str | None:
    """Return what is wrong, ``""`` if nothing is, and None where it came too late."""
    wait_for(lambda: len(cluster.list_workers()) >= 2)
    victim = chance.choice(sorted(cluster.list_workers().values()))
    after_s = chance.uniform(0, lasts_s)
    added: list[subprocess.Popen[bytes]] = []

    def send(number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(victim, number)

    def stop_and_wake() -> None:
        send(signal.SIGSTOP)
        threading.Timer(_WOKEN_S, send, (signal.SIGCONT,)).start()

    disturbances: Mapping[str, Callable[[], None]] = {
        "killed": lambda: send(signal.SIGKILL),
        "stopped": lambda: send(signal.SIGSTOP),
        "woken": stop_and_wake,
        "added": lambda: added.append(cluster.add_worker("--preload", preload)),
    }
    name = list(disturbances)[number % len(disturbances)]
    run = _Run(folder, f"{number}-{name}", cluster.address)
    told = f"{number}: {name} after {after_s:.1f} s of {lasts_s:.1f}"
    with suppress(subprocess.TimeoutExpired):
        run.process.wait(after_s)
    if run.process.poll() is not None:
        return None
    disturbances[name]()
    try:
        _, error = run.process.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        run.process.kill()
        return f"{told}: no end after {_LONGEST_S:.0f} s"
    finally:
        send(signal.SIGCONT)
        for process in added:
            process.terminate()
            process.wait()
    if run.process.returncode:
        return f"{told}: status {run.process.returncode}: {error[-300:]}"
    differ = [
        layer for layer, values in run.read().items() if not np.array_equal(values, expected[layer])
    ]
    return f"{told}: {differ} differ" if differ else ""
