"""The results of a sweep, ranked, and which of the differences are noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permafrost.cache.disk.publish import remove_durably
from permafrost.pipeline.models.checkpoint import EPOCH_COLUMNS, EPOCHS_NAME, describe_epoch
from permafrost.pipeline.models.measure import Scores, name_metric, summarize_scores
from permafrost.pipeline.outputs import write_json, write_rows
from permafrost.pipeline.sweeps.grid import Configuration
from permafrost.pipeline.sweeps.intervals import bound_difference, bound_score
from permafrost.pipeline.sweeps.journal import FoldRecord, Journal
from permafrost.pipeline.sweeps.transfer import Transfer
from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.evaluation.comparison import compare_counts, compare_draws
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.intervals import Interval
from permafrost.stages.evaluation.metrics import PRIMARY

# Above this p value a difference from the first is called noise.
SIGNIFICANCE = 0.05
SUMMARY_NAME = "sweep.json"
BOARD_NAME = "leaderboard.csv"
FOLDS_NAME = "folds.csv"
INTERVAL_COLUMNS = ("interval_low", "interval_high")
_SHOWN = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One configuration on the leaderboard.

    Attributes
    ----------
    summary : dict
        Mean and standard deviation of each score over the folds.
    interval : tuple of float, optional
        95 %, of what all are ranked by; see `bound_score`.
    p_value : float or None
        Of the paired comparison with the first, on the same rows, of what all are ranked by; None
        for the first itself.
    """

    configuration: Configuration
    folds: list[FoldRecord]
    summary: Scores
    interval: Interval | None = None
    p_value: float | None = None
    error: str = ""

    @property
    def is_tied(self) -> bool:
        """Whether its difference from the first may be noise."""
        return not self.error and (self.p_value is None or self.p_value >= SIGNIFICANCE)

    @property
    def seconds(self) -> float:
        """Of all folds."""
        return sum(record.seconds for record in self.folds)

    def to_dict(self) -> dict[str, object]:
        """Return the entry as a JSON object."""
        return {
            **self.configuration.to_dict(),
            **self.summary,
            "interval": self.interval and list(self.interval),
            "p_value": self.p_value,
            "tied_with_first": self.is_tied,
            "seconds": round(self.seconds, 3),
            "error": self.error or None,
            "folds": [record.figures for record in self.folds],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Every configuration, best first; those that failed last."""

    task: str
    entries: list[Entry]

    @property
    def transfer(self) -> Transfer | None:
        """The best transferred head against the best from scratch, where there are both."""
        name = f"{PRIMARY[self.task]}_mean"
        fitted = [entry for entry in self.entries if entry.summary.get(name) is not None]
        best = {entry.configuration.is_from_scratch: entry for entry in reversed(fitted)}
        if len(best) < 2:
            return None
        ours, theirs = best[False], best[True]
        return Transfer(
            transferred=ours.configuration.name,
            from_scratch=theirs.configuration.name,
            difference=(ours.summary[name] or 0.0) - (theirs.summary[name] or 0.0),
            interval=bound_difference(ours.folds, theirs.folds),
        )

    def to_dict(self) -> dict[str, object]:
        """Return the board as a JSON object."""
        return {
            "task": self.task,
            "metric": PRIMARY[self.task],
            "transfer": self.transfer and self.transfer.to_dict(),
            "configurations": [entry.to_dict() for entry in self.entries],
        }

    def describe(self) -> str:
        """Return the first rows as a table of text."""
        name = PRIMARY[self.task]
        rows = [("", name_metric(name), "± std", "p", "seconds", "layer", "head")]
        for number, entry in enumerate(self.entries[:_SHOWN], start=1):
            mean, std = entry.summary.get(f"{name}_mean"), entry.summary.get(f"{name}_std")
            rows.append(
                (
                    str(number),
                    "" if mean is None else f"{mean:.4f}",
                    "" if std is None else f"{std:.4f}",
                    write_p(entry.p_value),
                    f"{entry.seconds:.1f}",
                    entry.configuration.layer,
                    f"{entry.configuration.head} {entry.error}".strip(),
                )
            )
        lines = [self.describe_rows(), *align(rows)]
        if len(self.entries) > _SHOWN:
            lines.append(f"… {len(self.entries)} in all")
        lines += self._describe_ties()
        return "\n".join(lines + ([self.transfer.describe()] if self.transfer else []))

    def describe_rows(self) -> str:
        """Say what the table was measured on."""
        folds = self.entries[0].folds
        n_rows = sum(record.n_test for record in folds)
        return f"{n_rows} rows in {len(folds)} folds" if len(folds) > 1 else f"{n_rows} val rows"

    def _describe_ties(self) -> list[str]:
        """Say how far the first place can be trusted, where there is more than one."""
        others = [entry for entry in self.entries[1:] if not entry.error]
        if not others:
            return []
        n_tied = sum(entry.is_tied for entry in others)
        sign = "≥" if n_tied else "<"
        return [
            f"as good as the first, as far as these rows can tell: {n_tied or 'none'} of"
            f" {len(others)} others (p {sign} {SIGNIFICANCE})"
        ]


def rank(
    configurations: Sequence[Configuration], journal: Journal, *, n_folds: int, task: str
) -> Leaderboard:
    """Order configurations by the mean of the task's first metric; equal ones by log loss.

    Those that could not be fitted come last, as they were listed.
    """
    entries = [_read_entry(one, journal, n_folds=n_folds) for one in configurations]
    fitted = [entry for entry in entries if not entry.error]
    failed = [entry for entry in entries if entry.error]
    if not fitted:
        return Leaderboard(task=task, entries=failed)
    names = (f"{PRIMARY[task]}_mean", "log_loss_mean")
    fitted.sort(key=lambda entry: place(*(entry.summary.get(name) for name in names)))
    compared = [
        dataclasses.replace(entry, p_value=_compare(fitted[0], entry, task=task))
        for entry in fitted[1:]
    ]
    return Leaderboard(task=task, entries=[fitted[0], *compared, *failed])


def _read_entry(configuration: Configuration, journal: Journal, *, n_folds: int) -> Entry:
    found = [journal.find(configuration.key, fold) for fold in range(n_folds)]
    folds = [record for record in found if record is not None]
    errors = [record.error for record in folds if record.error]
    return Entry(
        configuration=configuration,
        folds=folds,
        summary={} if errors else summarize_scores(record.scores for record in folds),
        interval=None if errors else bound_score(folds),
        error=f"failed: {errors[0]}" if errors else "",
    )


def _compare(first: Entry, other: Entry, *, task: str) -> float:
    """Return the p value of the difference in the mean by which the two are ranked."""
    ours, theirs = ([record.evidence for record in entry.folds] for entry in (first, other))
    if task == CLASSIFICATION:
        return compare_counts(np.concatenate(ours), np.concatenate(theirs))
    best, score = (entry.summary[f"{PRIMARY[task]}_mean"] for entry in (first, other))
    if best is None or score is None:
        return 1.0
    return compare_draws(np.sum(ours, axis=0), np.sum(theirs, axis=0), difference=best - score)


def place(score: float | None, loss: float | None) -> tuple[float, float]:
    """Order by score, of equal ones by log loss; else it stays as listed, never by seconds."""
    # The mean of the same scores in another order differs in its last digits.
    return (
        float("inf") if score is None else -round(score, 9),
        float("inf") if loss is None else round(loss, 9),
    )


def write_tables(out: Path, board: Leaderboard, *, rows_key: str, data: dict[str, object]) -> None:
    """Write ``results.csv``, ``leaderboard.csv`` and ``sweep.json``.

    The last one also says by `rows_key` of which rows and folds they are, and in `data` what was
    asked for.
    """
    folds = [
        {**_name_configuration(entry), **record.figures, "error": record.error}
        for entry in board.entries
        for record in entry.folds
    ]
    _write_csv(out / "results.csv", folds)
    ranked = [
        {"rank": number, **_name_configuration(entry), **entry.summary}
        | {
            **dict(zip(INTERVAL_COLUMNS, entry.interval or ("", ""), strict=True)),
            "p_value": entry.p_value,
            "tied_with_first": "yes" if entry.is_tied else "no",
            "from_scratch": "yes" if entry.configuration.is_from_scratch else "no",
            "seconds": round(entry.seconds, 3),
            "error": entry.error,
        }
        for number, entry in enumerate(board.entries, start=1)
    ]
    _write_csv(out / BOARD_NAME, ranked)
    _write_epochs(out, board)
    write_json(out / SUMMARY_NAME, board.to_dict() | {"rows": rows_key, "data": data})


def _write_epochs(out: Path, board: Leaderboard) -> None:
    """Write ``epochs.csv`` where networks were trained, and leave none where none was."""
    rows: list[dict[str, object]] = [
        {
            **_name_configuration(entry),
            "fold": record.fold,
            **dict(zip(EPOCH_COLUMNS, describe_epoch(epoch), strict=True)),
        }
        for entry in board.entries
        for record in entry.folds
        for epoch in record.epochs
    ]
    if rows:
        _write_csv(out / EPOCHS_NAME, rows)
    else:
        remove_durably(out / EPOCHS_NAME)


def write_folds(out: Path, paths: Sequence[str], folds: Sequence[Fold]) -> None:
    """Write ``folds.csv``: which fold each row was measured in."""
    rows = [
        {"path": paths[row], "fold": number}
        for number, fold in enumerate(folds)
        for row in fold.test
    ]
    _write_csv(out / FOLDS_NAME, rows)


def _name_configuration(entry: Entry) -> dict[str, object]:
    configuration = entry.configuration
    return {
        "layer": configuration.layer,
        "head": configuration.candidate.kind,
        "settings": configuration.settings,
    }


def _write_csv(file: Path, rows: Sequence[dict[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_round(row.get(name, "")) for name in names] for row in rows]
    write_rows(file, names, cells)


def _round(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def write_p(value: float | None) -> str:
    """Write a p value; nothing for none."""
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay cells out in columns; the last one is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
