"""``run``: check, extract, sweep and what follows from one file, doing only what is missing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
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
    extractions : list of ExtractSummary
        One for each backbone.
    predictions : list of dict
        What `predict` says of each.
    audit, select, export : dict, optional
        What these say.
    seconds : float
        Of all of it.
    """

    extractions: list[ExtractSummary]
    sweep: SweepResult
    predictions: list[dict[str, Any]]
    audit: dict[str, Any] | None
    select: dict[str, Any] | None
    export: dict[str, Any] | None
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object: those of the sweep, and of what is around it."""
        return {
            "extractions": [asdict(summary) for summary in self.extractions],
            **self.sweep.to_dict(),
            "predictions": self.predictions,
            "audit": self.audit,
            "select": self.select,
            "export": self.export,
            "seconds": round(self.seconds, 3),
        }

    def describe(self) -> str:
        """Return what a person wants to know: the leaderboard above all."""
        lines = [summary.describe() for summary in self.extractions]
        lines.append(self.sweep.describe())
        lines += [describe_predictions(one, one["predictions"]) for one in self.predictions]
        lines += describe_curation({"audit": self.audit, "select": self.select})
        if self.export:
            lines.append(f"{self.sweep.best.out} → {self.export['model']}")
        return "\n".join(lines)


class _Steps:
    """Says which step of how many is going."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0

    def say(self, what: str) -> None:
        self._number += 1
        text = f"run: step {self._number} of {self._total}: {what}"
        tell("step", text, number=self._number, total=self._total, step=what)


def run_experiment(experiment: Experiment) -> ExperimentResult:
    """Do what an experiment says, as far as it is not done.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each. Heads that cannot be fitted are told of when all is done.
    """
    started_s = time.monotonic()
    out = experiment.sweep.out
    once = [experiment.audit, experiment.select, experiment.export]
    n_others = len(experiment.predictions) + sum(one is not None for one in once)
    steps = _Steps(1 + len(experiment.backbones) + 1 + n_others)
    steps.say(f"checking {experiment.file}")
    tracker = experiment.tracking.open()
    checked = check_experiment(experiment)
    extractions = []
    for view, features in experiment.backbones.items():
        steps.say(f"features of {features.backbone}")
        extractions.append(extract(experiment.extract(features), view, dataset=checked.dataset))
    steps.say(f"sweep over {checked.n_configurations} configurations")
    found = sweep(experiment.sweep)
    products = Products(experiment)
    predictions = []
    for number, images in enumerate(checked.new):
        steps.say(f"predictions for {experiment.predictions[number].images}")
        predictions.append(products.predict(number, images))
    audited = selected = exported = None
    if experiment.audit is not None:
        steps.say("what looks wrong in the data")
        audited = products.audit(checked.dataset)
    if experiment.select is not None:
        steps.say("what to label next")
        selected = products.select(checked.dataset)
    if experiment.export is not None:
        steps.say(f"export to {experiment.export}")
        exported = products.export()
    result = ExperimentResult(
        extractions=extractions,
        sweep=found,
        predictions=predictions,
        audit=audited,
        select=selected,
        export=exported,
        seconds=time.monotonic() - started_s,
    )
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
