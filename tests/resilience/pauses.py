"""SIGSTOP at random moments, and SIGCONT once the leases have run out: as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path

from tests.resilience.jobs import list_jobs, set_scene
from tests.resilience.report import Result, sum_up
from tests.resilience.trials import Trial, plan_trials, try_all, watch_operations

# How often each command is paused.
COUNTS = {"extract": 6, "compact": 2, "repair": 2}
_PAUSE_S = 1.0


def run(seed: int) -> Result:
    """Pause every command that writes into a cache."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(set_scene(Path(scratch) / "scene"))
        trials = [
            trial
            for name, n in COUNTS.items()
            for trial in plan_trials(
                name, jobs[name], [signal.SIGSTOP] * n, seed=seed, scratch=Path(scratch)
            )
        ]
        outcomes = try_all(pause, trials)
    return sum_up(
        f"SIGSTOP at random moments of {', '.join(COUNTS)}, and SIGCONT once leases have run out:"
        " it goes on, and ends as undisturbed",
        outcomes,
    )


def forget_soon(folder: str, last: int | None) -> None:
    """Have this process keep leases that last half a second, and stop before an operation."""
    import permafrost.cache.store.leases

    permafrost.cache.store.leases.HEARTBEAT_S = 0.1
    permafrost.cache.store.leases.EXPIRES_S = 0.5
    watch_operations(folder, os.devnull, last, signal.SIGSTOP)


def pause(trial: Trial) -> str | None:
    """Pause once, and return what is wrong in the end; None where the pause came too late."""
    folder = trial.job.fresh(trial.folder)
    last = trial.moment if isinstance(trial.moment, int) else None
    child = trial.job.begin(folder, partial(forget_soon, str(folder), last))
    if last is None:
        child.wait_until_ready()
        child.wait(trial.moment)
        child.signal(signal.SIGSTOP)
    is_late = True
    # Of a process that goes on anyway, a signal to go on changes nothing.
    while not child.wait(_PAUSE_S):
        is_late = False
        child.signal(signal.SIGCONT)
    wrong = trial.job.find_wrong(folder, child.end(), trial.expected)
    shutil.rmtree(folder)
    return None if is_late and not wrong else trial.describe(wrong)
