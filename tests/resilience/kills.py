"""SIGKILL at random moments; the next run must end as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.resilience.child import Ending
from tests.resilience.jobs import (
    N_LAYERS,
    Job,
    Look,
    count_committed,
    list_jobs,
    list_unfinished,
    make_small_shards,
    set_scene,
)
from tests.resilience.report import Result

# Of the kills that each command gets, of all.
SHARES = {"extract": 0.7, "sweep": 0.28, "sweep --jobs 2": 0.02}
# What Python tells of files that come, go and change their names.
_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect")


def run(seed: int, n_kills: int = 200) -> Result:
    """Kill every command at its share of moments, half by the clock, half between operations."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as threads:
        jobs = list_jobs(set_scene(Path(scratch) / "scene"))
        trials = [
            trial
            for name, share in SHARES.items()
            for trial in plan_trials(
                name, jobs[name], n=round(n_kills * share), seed=seed, scratch=Path(scratch)
            )
        ]
        failures = [failure for failure in threads.map(try_kill, trials) if failure]
    return Result(
        what=f"SIGKILL at random moments of {', '.join(SHARES)}, and run again: same values",
        injected=len(trials),
        survived=len(trials) - len(failures),
        failures=failures,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One kill.

    Attributes
    ----------
    name : str
    job : Job
    folder : Path
        Where it runs.
    moment : float or int
        Seconds after the start, or the number of the file operation that is its last.
    expected : Look
    """

    name: str
    job: Job
    folder: Path
    moment: float | int
    expected: Look

    def describe(self) -> str:
        unit = "operation" if isinstance(self.moment, int) else "second"
        return f"{self.name} killed at {unit} {self.moment:.6g}"


def plan_trials(name: str, job: Job, *, n: int, seed: int, scratch: Path) -> list[Trial]:
    """Run a command undisturbed, and choose the moments of the others."""
    folder = job.fresh(scratch / f"{name}-undisturbed")
    log = scratch / f"{name}.operations"
    started_s = time.monotonic()
    ending = job.begin(folder, partial(watch_operations, str(folder), str(log))).end()
    seconds = time.monotonic() - started_s
    assert ending.status == 0, ending.err
    chance = random.Random(f"{seed} {name}")
    moments: list[float | int] = [chance.uniform(0, seconds) for _ in range(n - n // 2)]
    moments += [chance.randint(1, log.stat().st_size) for _ in range(n // 2)]
    return [
        Trial(
            name=name,
            job=job,
            folder=scratch / f"{name}-{number}",
            moment=moment,
            expected=job.look(folder),
        )
        for number, moment in enumerate(moments)
    ]


def watch_operations(folder: str, log: str, last: int | None = None) -> None:
    """Write a byte into `log` for each operation on files in `folder`; die at the last."""
    make_small_shards()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = count(1)

    def note(event: str, arguments: Sequence[object]) -> None:
        if event not in _OPERATIONS or not str(arguments[0]).startswith(folder):
            return
        os.write(descriptor, b".")
        if next(numbers) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)


def try_kill(trial: Trial) -> str:
    """Kill once, run again, and return what is wrong then; nothing if all is well."""
    folder = trial.job.fresh(trial.folder)
    _kill(trial, folder)
    n_unfinished, n_committed = len(list_unfinished(folder)), count_committed(folder)
    ending = trial.job.finish(folder)
    wrong = trial.job.find_wrong(folder, ending, trial.expected)
    if trial.name == "extract":
        wrong += _find_lost(ending, n_unfinished, n_committed)
    if not wrong:
        shutil.rmtree(folder)
        return ""
    return f"{trial.describe()}: {'; '.join(wrong)}"


def _kill(trial: Trial, folder: Path) -> None:
    if isinstance(trial.moment, int):
        prepare = partial(watch_operations, str(folder), os.devnull, trial.moment)
        trial.job.begin(folder, prepare).end()
        return
    child = trial.job.begin(folder)
    child.wait(trial.moment)
    child.signal_group(signal.SIGKILL)
    child.end()


def _find_lost(ending: Ending, n_unfinished: int, n_committed: int) -> list[str]:
    """Say whether more was lost than the shards in progress, one of each layer."""
    wrong = []
    # And one small file: of the view, say.
    if n_unfinished > N_LAYERS + 1:
        wrong.append(f"{n_unfinished} files were in progress")
    if ending.status == 0:
        n_computed, n_images = ending.figures["computed"], ending.figures["images"]
        if n_computed > n_images - n_committed:
            wrong.append(f"{n_computed} computed, {n_committed} of {n_images} were there")
    return wrong
