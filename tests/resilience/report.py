"""What a subject found, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

MOST_FAILURES_SHOWN = 20


class NotHereError(Exception):
    """A subject cannot be tried on this machine; its text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was done to the program, and what became of it.

    Attributes
    ----------
    what : str
        One line for people: what was injected, and what "survived" means here.
    injected : int
        Faults, bytes, files, processes.
    survived : int
        Those after which all was as it should be.
    failures : list of str
        One line for each of the others, with what it takes to repeat it.
    """

    what: str
    injected: int
    survived: int
    failures: list[str] = field(default_factory=list)


def sum_up(what: str, outcomes: Sequence[str]) -> Result:
    """Count outcomes, each ``""`` or what was wrong."""
    failures = [outcome for outcome in outcomes if outcome]
    n = len(outcomes)
    return Result(what=what, injected=n, survived=n - len(failures), failures=failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All subjects of a run.

    Attributes
    ----------
    seed : int
    results : mapping of str to Result
        By subject.
    seconds : mapping of str to float
    skipped : mapping of str to str
        Subjects that cannot be tried here, and why.
    """

    seed: int
    results: Mapping[str, Result]
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]

    @property
    def failures(self) -> list[str]:
        """All failures, each with its subject."""
        return [
            f"{subject}: {failure}"
            for subject, result in self.results.items()
            for failure in _list_failures(result)
        ]

    def to_json(self) -> str:
        """Return all of it on one line."""
        return json.dumps(asdict(self))

    def describe(self) -> str:
        """Return the table for the README, and what failed."""
        lines = ["| what was done | times | survived | seconds |", "|---|---|---|---|"]
        lines += [
            f"| {result.what} | {result.injected:,} | {result.survived:,} |"
            f" {self.seconds[subject]:.0f} |"
            for subject, result in self.results.items()
        ]
        lines += ["", *(f"{subject} skipped: {why}" for subject, why in self.skipped.items())]
        failures = self.failures
        lines += failures[:MOST_FAILURES_SHOWN]
        if len(failures) > MOST_FAILURES_SHOWN:
            lines.append(f"and {len(failures) - MOST_FAILURES_SHOWN} more")
        lines.append(
            f"{len(failures)} failures in {sum(self.seconds.values()):.0f} s, seed {self.seed}"
        )
        return "\n".join(lines)


def _list_failures(result: Result) -> list[str]:
    """Return a result's failures; nothing injected, or lost without a word, is one too."""
    if not result.injected:
        return [*result.failures, "nothing was injected"]
    n_silent = result.injected - result.survived - len(result.failures)
    if n_silent > 0:
        return [*result.failures, f"{n_silent} did not survive and do not say why"]
    return result.failures
