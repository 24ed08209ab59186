"""Positive or negative transfer: what was learnt elsewhere against what starts from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.intervals import Interval
from permafrost.stages.heads import HEADS

POSITIVE, NEGATIVE, UNDECIDED = "positive", "negative", "undecided"
# The setting `weights` with which a head that is made of a backbone has none of its weights.
RANDOM = "random"


def is_from_scratch(candidate: Candidate, *, learnt: Sequence[StoredLayer]) -> bool:
    """Tell whether a head owes nothing to other images.

    Parameters
    ----------
    learnt : sequence of StoredLayer
        Those of its layers that were extracted with a backbone of learnt weights. It has no part in
        pixels, unless the head goes on from its weights.
    """
    goes_on = HEADS[candidate.kind].needs_backbone and candidate.settings.weights != RANDOM
    return all(layer.spec.is_pixels and not goes_on for layer in learnt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The best transferred head against the best from scratch; 95 % of the paired difference."""

    transferred: str
    from_scratch: str
    difference: float
    interval: Interval | None

    @property
    def verdict(self) -> str:
        """`POSITIVE` or `NEGATIVE` where the interval leaves out 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return UNDECIDED
        return POSITIVE if self.interval[0] > 0 else NEGATIVE

    def to_dict(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return {"verdict": self.verdict, **asdict(self)}

    def describe(self) -> str:
        """Say it in a line."""
        said = {UNDECIDED: "positive or negative transfer: undecided"}
        verdict = said.get(self.verdict, f"{self.verdict} transfer")
        return (
            f"{verdict}: {self.transferred} against the best from scratch, {self.from_scratch}:"
            f" {describe_difference(self.difference, self.interval)}"
        )


def describe_difference(difference: float, interval: Interval | None) -> str:
    """Write a difference of scores with its interval."""
    if interval is None:
        return f"{difference:+.4f} (its interval is undefined)"
    return f"{difference:+.4f} (95 %: {interval[0]:+.4f} to {interval[1]:+.4f})"
