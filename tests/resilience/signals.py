"""SIGINT, SIGTERM and SIGHUP at random moments: one line, the right status, nothing left behind."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from pathlib import Path

from tests.helpers import ROOT
from tests.resilience.child import Child, is_ready
from tests.resilience.jobs import Job, list_jobs, set_scene
from tests.resilience.report import Result, sum_up
from tests.resilience.trials import Trial, plan_trials, try_all

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINE = "permafrost: interrupted; what was finished is kept"
# How many signals each command gets, and that many starts of real processes.
COUNTS = {
    "extract": 30,
    "sweep": 12,
    "compact": 9,
    "repair": 9,
    "gc": 6,
    "predict": 9,
    "fit": 6,
    "export": 3,
    "index": 3,
    "sweep --jobs 2": 2,
}
_N_STARTS = 12
_START_S = 0.6


def run(seed: int) -> Result:
    """Interrupt every command, and Python while it starts."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(set_scene(Path(scratch) / "scene"))
        trials = plan_all(jobs, COUNTS, seed=seed, scratch=Path(scratch))
        outcomes = try_all(interrupt, trials)
        chance = random.Random(seed)
        starts = [(chance.choice(NUMBERS), chance.uniform(0, _START_S)) for _ in range(_N_STARTS)]
        outcomes += [interrupt_start(*start) for start in starts]
    return sum_up(
        f"SIGINT, SIGTERM, SIGHUP at random moments of {', '.join(COUNTS)} and of Python's start:"
        " one line, the right status; run again: the same",
        outcomes,
    )


def plan_all(
    jobs: Mapping[str, Job], counts: Mapping[str, int], *, seed: int, scratch: Path
) -> list[Trial]:
    """Plan trials of several commands, each signal in turn."""
    return [
        trial
        for name, n in counts.items()
        for trial in plan_trials(
            name, jobs[name], list(islice(cycle(NUMBERS), n)), seed=seed, scratch=scratch
        )
    ]


def interrupt(trial: Trial) -> str | None:
    """Interrupt once, look at what is said, run again and look at what is left."""
    folder = trial.job.fresh(trial.folder)
    ending = trial.disturb(folder, _choose_sending(trial))
    if ending.status == 0:
        return None
    wrong = find_wrong_words(ending.status, ending.err, trial.number)
    wrong += trial.job.find_wrong(folder, trial.job.finish(folder), trial.expected)
    shutil.rmtree(folder)
    return trial.describe(wrong)


def _choose_sending(trial: Trial) -> Callable[[Child, int], None]:
    """Send to the process, to it twice, or as a terminal does to all that it started."""
    return random.Random(trial.moment).choice((Child.signal, _signal_twice, Child.signal_group))


def _signal_twice(child: Child, number: int) -> None:
    child.signal(number)
    child.wait(random.Random(number).uniform(0, 0.1))
    child.signal(number)


def find_wrong_words(status: int, err: str, number: int) -> list[str]:
    """Say what is wrong with how an interrupted command ended."""
    wrong = []
    if status != 128 + number:
        wrong.append(f"status {status}")
    if "Traceback" in err or "Error" in err or (err.splitlines() or [""])[-1] != LAST_LINE:
        wrong.append(f"it said {err[-300:]!r}")
    return wrong


def interrupt_start(number: int, moment: float) -> str:
    """Interrupt a real process soon after it took signals into its own hands."""
    process = subprocess.Popen(
        [sys.executable, "run.py", "layers", "mobilenet", "--json"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not is_ready(process.pid):
        time.sleep(0.001)
    time.sleep(moment)
    process.send_signal(number)
    _, err = process.communicate()
    wrong = find_wrong_words(process.returncode, err, number) if process.returncode else []
    return f"start, {number} after {moment:.3f} s: {'; '.join(wrong)}" if wrong else ""
