"""A process of a sweep is killed at any moment of its life: the wait for it ends."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil

from permafrost.stages.evaluation.fold_task import FoldTask
from permafrost.stages.evaluation.processes import Workers
from tests.helpers.fold_tasks import N_MANY, kill, list_children, make_task
from tests.resilience.report import Result, sum_up

PHASES = ("starting", "idle", "working", "writing")
_N_KILLS = 240
# An end that takes longer is none.
_LONGEST_S = 25.0
_START_S = 2.0


def run(seed: int) -> Result:
    """Kill one of two processes, as often in each phase."""
    chance = random.Random(seed)
    outcomes = [_try(PHASES[n % len(PHASES)], chance) for n in range(_N_KILLS)]
    return sum_up(
        f"SIGKILL of one process of a sweep while {', '.join(PHASES)}: the sweep ends at once",
        outcomes,
    )


def _try(phase: str, chance: random.Random) -> str | None:
    """Return what is wrong, ``""`` if nothing is, and None where the kill came too late."""
    ended: list[BaseException | int] = []

    def fit(workers: Workers) -> None:
        try:
            if phase != "starting":
                list(workers.run(map(make_task, range(4)), n_jobs=2))
                if phase == "idle":
                    kill(chance.choice(list_children()))
            ended.append(len(list(workers.run(_list_tasks(phase), n_jobs=2))))
        except BaseException as error:  # noqa: BLE001
            ended.append(error)

    with tempfile.TemporaryDirectory() as folder, Workers(Path(folder)) as workers:
        thread = threading.Thread(target=fit, args=(workers,), daemon=True)
        thread.start()
        if phase != "idle":
            _kill_one(phase, workers, thread, chance)
        thread.join(_LONGEST_S)
    if not ended:
        return f"{phase}: no end after {_LONGEST_S:.0f} s"
    if isinstance(ended[0], int):
        return None
    return "" if isinstance(ended[0], BrokenProcessPool) else f"{phase}: {ended[0]!r}"


def _list_tasks(phase: str) -> Iterator[FoldTask]:
    n_test = N_MANY if phase == "writing" else 50
    return (make_task(number, n_test=n_test) for number in range(40))


def _kill_one(
    phase: str, workers: Workers, thread: threading.Thread, chance: random.Random
) -> None:
    while thread.is_alive() and len(list_children()) < 2:
        time.sleep(0.01)
    if phase == "starting":
        time.sleep(chance.uniform(0, _START_S))
    elif phase == "writing":
        while thread.is_alive() and not any(one.connection.poll() for one in list(workers._all)):
            time.sleep(1e-4)
    else:
        time.sleep(chance.uniform(0, 0.1))
    for process in chance.sample(list_children(), 1):
        try:
            kill(process)
        except (ProcessLookupError, psutil.Error):
            return
