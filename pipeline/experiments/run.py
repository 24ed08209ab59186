"""``run``: check, extract, sweep and what follows from one file, doing only what is missing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.check import check_experiment
from permafrost.pipeline.experiments.curation import describe_curation
from permafrost.pipeline.experiments.experiment import Experiment
from permafrost.pipeline.experiments.products import SUMMARY_NAME, Products
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.extraction.summary import ExtractSummary
from permafrost.pipeline.models.predict import describe_predictions
from permafrost.pipeline.outputs import write_summary
from permafrost.pipeline.progress import tell
from permafrost.pipeline.sweeps.sweep import SweepResult, sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """What an experiment gave.

    Attributes
    ----------
    made : dict
        Figures of the ``predictions``, a list, and of ``audit``, ``select`` and ``export``.
    """

    extractions: list[ExtractSummary]
    sweep: SweepResult
    made: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object: those of the sweep, and of what is around it."""
        return {
            "extractions": [asdict(summary) for summary in self.extractions],
            **self.sweep.to_dict(),
            **self.made,
            "seconds": round(self.seconds, 3),
        }

    def describe(self) -> str:
        """Return what a person wants to know: the leaderboard above all."""
        lines = [summary.describe() for summary in self.extractions]
        lines.append(self.sweep.describe())
        lines += [describe_predictions(one, one["predictions"]) for one in self.made["predictions"]]
        lines += describe_curation(self.made)
        if self.made["export"]:
            lines.append(f"{self.sweep.best.out} → {self.made['export']['model']}")
        return "\n".join(lines)


def run_experiment(experiment: Experiment) -> ExperimentResult:
    """Do what an experiment says, as far as it is not done.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each. Heads that cannot be fitted are told of when all is done.
    """
    started_s = time.monotonic()
    out, products = experiment.sweep.out, Products(experiment)
    once = {
        "audit": (experiment.audit, "what looks wrong in the data", products.audit),
        "select": (experiment.select, "what to label next", products.select),
        "export": (experiment.export, f"export to {experiment.export}", products.export),
    }
    n_asked = sum(asked is not None for asked, _, _ in once.values())
    total = 2 + len(experiment.backbones) + len(experiment.predictions) + n_asked
    numbers = count(1)

    def say(what: str) -> None:
        number = next(numbers)
        text = f"run: step {number} of {total}: {what}"
        tell("step", text, number=number, total=total, step=what)

    say(f"checking {experiment.file}")
    tracker = experiment.tracking.open()
    checked = check_experiment(experiment)
    extractions = []
    for view, features in experiment.backbones.items():
        say(f"features of {features.backbone}")
        extractions.append(extract(experiment.extract(features), view, dataset=checked.dataset))
    say(f"sweep over {checked.n_configurations} configurations")
    found = sweep(experiment.sweep)
    made: dict[str, Any] = {"predictions": []}
    for number, images in enumerate(checked.new):
        say(f"predictions for {experiment.predictions[number].images}")
        made["predictions"].append(products.predict(number, images))
    for name, (asked, what, make) in once.items():
        made[name] = None
        if asked is not None:
            say(what)
            made[name] = make(checked.dataset)
    seconds = time.monotonic() - started_s
    result = ExperimentResult(extractions=extractions, sweep=found, made=made, seconds=seconds)
    write_summary(out / SUMMARY_NAME, result.to_dict())
    tracker.log_sweep(out, result.to_dict(), experiment.file)
    _tell_of_failures(result, out)
    return result


def _tell_of_failures(result: ExperimentResult, out: Path) -> None:
    entries = result.sweep.board.entries
    failed = [entry for entry in entries if entry.error]
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(entries)} heads could not be fitted, all others are in"
            f" {str(out / 'leaderboard.csv')!r}; the first: {failed[0].configuration.name},"
            f" {failed[0].error}"
        )
