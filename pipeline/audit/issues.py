"""Suspicions, one a line: sorted, written as a table, and told on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from permafrost.pipeline.outputs import write_rows

# In the order in which they are told; those of one score stand in the table so, too.
KINDS = (
    *("unreadable", "duplicate", "label", "near_duplicate", "group", "order", "outlier"),
    *("blurred", "dark", "bright", "tiny", "odd_shape"),
)
_SHOWN = 10
_WIDEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One suspicion: a line of ``issues.csv``, with its columns.

    Attributes
    ----------
    path : str
        The image; "" of what is said of many.
    kind : str
        One of `KINDS`.
    score : float
        From 0 to 1, comparable within a kind.
    label, suggested, other, detail : str
        Its label, a better one, the image that it is a copy of, and why.
    """

    path: str = ""
    kind: str
    score: float
    label: str = ""
    suggested: str = ""
    other: str = ""
    detail: str = ""


HEADER = tuple(column.name for column in fields(Issue))


def sort_issues(issues: Sequence[Issue]) -> list[Issue]:
    """Sort issues, the most certain first."""
    return sorted(issues, key=lambda one: (-one.score, KINDS.index(one.kind), one.path))


def write_issues(file: Path, issues: Sequence[Issue]) -> None:
    """Write ``issues.csv``."""
    rows = [asdict(one) | {"score": f"{one.score:.4f}"} for one in issues]
    write_rows(file, HEADER, [list(row.values()) for row in rows])


def count_kinds(issues: Sequence[Issue]) -> dict[str, int]:
    """Count the issues of each kind, of those that there are."""
    counts = Counter(one.kind for one in issues)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def describe_issues(issues: Sequence[Issue]) -> list[str]:
    """Return a short table: how many of each kind, and the first of the most certain."""
    counts = count_kinds(issues)
    lines = [f"  {count:>6}  {kind}" for kind, count in counts.items()]
    shown = issues[:_SHOWN]
    width = min(_WIDEST, max((len(one.path) for one in shown), default=0))
    return lines + [
        f"  {one.score:.2f}  {one.kind:<14}  {one.path:<{width}}  {_explain(one)}".rstrip()
        for one in shown
    ]


def _explain(issue: Issue) -> str:
    said = (f"{issue.label} → {issue.suggested}" if issue.suggested else "", issue.other)
    return "; ".join(filter(None, (*said, issue.detail)))
