"""What `advise` has to say: to a person, and as a JSON object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from permafrost.command import COMMAND
from permafrost.pipeline.advice.cost import Cost
from permafrost.pipeline.advice.probe import Probed
from permafrost.pipeline.advice.proposal import Ladder, Proposal
from permafrost.pipeline.models.measure import name_metric
from permafrost.pipeline.sweeps.leaderboard import align
from permafrost.pipeline.sweeps.sweep import SweepResult
from permafrost.pipeline.sweeps.transfer import describe_difference
from permafrost.stages.advice.scenario import (
    LARGE_ROWS_PER_1000_WEIGHTS,
    LARGE_ROWS_PER_CLASS,
    LARGEST_DROP,
    SIMILAR,
    UNDECIDED,
    judge_size,
)
from permafrost.stages.evaluation.metrics import PRIMARY

SUMMARY_NAME = "advice.json"
_WHY = {
    SIMILAR: f", within {LARGEST_DROP:g}",
    UNDECIDED: f", which leaves out neither 0 nor more than {LARGEST_DROP:g}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the scenario follows from.

    Attributes
    ----------
    ladders : list of Ladder
        The backbones, the one with the best layer first: the advice is about that one.
    rows_per_class : float
        The mean over classes or tags; of values, all rows.
    """

    ladders: list[Ladder]
    n_rows: int
    rows_per_class: float

    @property
    def rows_per_1000_weights(self) -> float | None:
        """Training rows for each thousand weights that fine-tuning would train."""
        n_weights = self.ladders[0].n_weights
        return None if n_weights is None else 1000 * self.n_rows / n_weights

    @property
    def size(self) -> str:
        """Whether the rows are few or many, see `judge_size`."""
        return judge_size(self.rows_per_class, self.rows_per_1000_weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the scenario and its figures as a JSON object."""
        return {
            "size": self.size,
            "domain": self.ladders[0].domain,
            "n_rows": self.n_rows,
            "rows_per_class": self.rows_per_class,
            "n_weights": self.ladders[0].n_weights,
            "rows_per_1000_weights": self.rows_per_1000_weights,
            "backbones": [
                {
                    "backbone": one.known.name,
                    "domain": one.domain,
                    "layers": [layer.expression for layer in one.layers],
                    "peak": one.peak.expression,
                    "drop": one.peak.score - one.layers[-1].score,
                    "interval": one.interval,
                }
                for one in self.ladders
            ],
        }

    def explain(self) -> list[str]:
        """Say the scenario and the figures that it follows from."""
        first, weights = self.ladders[0], "weights are not on record"
        if first.n_weights is not None:
            weights = (
                f"{self.rows_per_1000_weights:.2g} for 1,000 of the {first.n_weights:,} weights"
                f" above {first.cut} (large: from {LARGE_ROWS_PER_1000_WEIGHTS:g})"
            )
        each = f", {self.rows_per_class:.0f} a class" if self.rows_per_class < self.n_rows else ""
        size = (
            f"{self.size} data: {self.n_rows} training rows{each}"
            f" (large: from {LARGE_ROWS_PER_CLASS}), {weights}"
        )
        return [*map(_explain_domain, self.ladders), size]


def _explain_domain(ladder: Ladder) -> str:
    peak, last = ladder.peak, ladder.layers[-1]
    said = f"{ladder.known.name}: {ladder.domain} domain: {peak.expression}"
    if len(ladder.layers) == 1:
        return f"{said} alone says nothing of depth"
    if peak is last:
        return f"{said}, the last layer, is the best"
    drop = describe_difference(peak.score - last.score, ladder.interval)
    return (
        f"{said}, layer {ladder.place + 1} of {len(ladder.layers)}, is the best, by {drop} before"
        f" the last, {last.expression}{_WHY.get(ladder.domain, '')}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What `advise` found.

    Attributes
    ----------
    ranked : list of Probed
        Every layer of every backbone, best first.
    experiment : Path, optional
        None where nobody knows how the features were asked for.
    """

    ranked: list[Probed]
    evidence: Evidence
    n_outputs: int
    proposal: Proposal
    cost: Cost
    experiment: Path | None
    sweep: SweepResult

    def to_dict(self) -> dict[str, object]:
        """Return all figures as a JSON object."""
        board = self.sweep.board
        return {
            "metric": PRIMARY[board.task],
            **self.evidence.to_dict(),
            "layers": [self._describe_layer(one) for one in self.ranked],
            "transfer": board.transfer and board.transfer.to_dict(),
            "proposal": asdict(self.proposal),
            "cost": asdict(self.cost),
            "experiment": self.experiment and str(self.experiment),
            "fitted": self.sweep.n_fitted,
            "seconds": round(self.sweep.seconds, 3),
            "out": str(self.sweep.out),
        }

    def _describe_layer(self, one: Probed) -> dict[str, Any]:
        ladder = self._find_ladder(one)
        return {
            "layer": one.expression,
            "backbone": ladder.known.name if ladder else None,
            "depth": ladder.depth(one) if ladder else None,
            "values": one.n_values,
            "score": one.score,
            "interval": one.interval,
            "logme": one.logme,
            "probe": one.entry.configuration.head,
            "head_weights": (one.n_values + 1) * self.n_outputs,
            "weights_above": ladder.known.count_above(one.layer) if ladder else None,
        }

    def _find_ladder(self, one: Probed) -> Ladder | None:
        if one.stored.spec.is_pixels:
            return None
        return next(each for each in self.evidence.ladders if each.file == one.stored.file)

    def describe(self) -> str:
        """Return it as a person wants it."""
        board = self.sweep.board
        lines = [board.describe_rows(), *align(self._list_cells(name_metric(PRIMARY[board.task])))]
        if board.transfer:
            lines.append(board.transfer.describe())
        lines += [*self.evidence.explain(), f"→ {self.proposal.recipe}"]
        if self.experiment is None:
            lines.append("no experiment is written: the file does not say how it was extracted")
        else:
            lines.append(f"next: {COMMAND} run {self.experiment}")
        lines += [f"  {line}" for line in self.cost.describe()]
        return "\n".join([*lines, f"every figure: {self.sweep.out / SUMMARY_NAME}"])

    def _list_cells(self, metric: str) -> list[list[str]]:
        rows = [["", metric, "95 %", "LogME", "values", "depth", "layer", "backbone"]]
        for number, one in enumerate(self.ranked, start=1):
            ladder = self._find_ladder(one)
            cells = [
                str(number),
                f"{one.score:.4f}",
                f"{one.interval[0]:.4f} to {one.interval[1]:.4f}" if one.interval else "",
                f"{one.logme:.4f}",
                str(one.n_values),
                f"{ladder.depth(one)} of {len(ladder.layers)}" if ladder else "",
                one.expression,
                ladder.known.name if ladder else "",
            ]
            rows.append(cells)
        return rows
