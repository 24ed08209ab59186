"""SIGKILL at random moments; the next run must end as if nothing had been."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

from tests.resilience.child import Child, Ending
from tests.resilience.jobs import N_LAYERS, count_committed, list_jobs, list_unfinished, set_scene
from tests.resilience.report import Result, sum_up
from tests.resilience.trials import Trial, plan_trials, try_all

# Of all kills, those that each command gets.
SHARES = {
    "extract": 0.42,
    "sweep": 0.14,
    "compact": 0.1,
    "repair": 0.1,
    "gc": 0.08,
    "predict": 0.07,
    "fit": 0.05,
    "fit finetune": 0.1,
    "fit cnn": 0.1,
    "export": 0.03,
    "sweep --jobs 2": 0.01,
}


def run(seed: int, n_kills: int = 200) -> Result:
    """Kill every command at its share of moments."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(set_scene(Path(scratch) / "scene"))
        trials = [
            trial
            for name, share in SHARES.items()
            for trial in plan_trials(
                name,
                jobs[name],
                [signal.SIGKILL] * round(n_kills * share),
                seed=seed,
                scratch=Path(scratch),
            )
        ]
        outcomes = try_all(kill, trials)
    return sum_up(
        f"SIGKILL at random moments of {', '.join(SHARES)}; run again: the same, bit for bit",
        outcomes,
    )


def kill(trial: Trial) -> str | None:
    """Kill once, run again, and return what is wrong then; None where the kill came too late."""
    folder = trial.job.fresh(trial.folder)
    killed = trial.disturb(folder, Child.signal_group)
    if killed.status != -signal.SIGKILL:
        return None if killed.status == 0 else trial.describe([f"{killed}"])
    n_unfinished = len(list_unfinished(folder))
    n_committed = count_committed(folder) if trial.name == "extract" else 0
    ending = trial.job.finish(folder)
    wrong = trial.job.find_wrong(folder, ending, trial.expected)
    if trial.name == "extract":
        wrong += _find_lost(ending, n_unfinished, n_committed)
    shutil.rmtree(folder)
    return trial.describe(wrong)


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
