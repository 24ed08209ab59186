"""What one folder holds: tables and figures of a sweep, a fit, a run, an advice or an audit."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permafrost.pipeline.advice.report import SUMMARY_NAME as ADVICE_NAME
from permafrost.pipeline.audit.audit import ISSUES_NAME
from permafrost.pipeline.audit.audit import SUMMARY_NAME as AUDIT_NAME
from permafrost.pipeline.audit.issues import HEADER
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import AUDIT_FOLDER
from permafrost.pipeline.experiments.products import SUMMARY_NAME as RUN_NAME
from permafrost.pipeline.export.classifier import METRICS_NAME, MODEL_NAME
from permafrost.pipeline.looking.photos import list_places
from permafrost.pipeline.models.checkpoint import EPOCHS_NAME
from permafrost.pipeline.outputs import read_json
from permafrost.pipeline.report.parts import Metric
from permafrost.pipeline.sweeps.leaderboard import BOARD_NAME, INTERVAL_COLUMNS, SUMMARY_NAME
from permafrost.pipeline.sweeps.sweep import BEST_NAME
from permafrost.refusals import raise_refusal
from permafrost.stages.datasets.formulas import restore_texts
from permafrost.stages.evaluation.intervals import Interval
from permafrost.stages.evaluation.metrics import PRIMARY

# What every model says of itself.
_METRICS = {"task", "target", "head", "layer", "settings", "n_train", "n_test", "seconds"}
# What every audit says of itself.
_AUDIT = {"images", "issues", "kinds", "source", "notes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of ``leaderboard.csv``.

    Attributes
    ----------
    settings : str
        What sets the head apart.
    score : float, optional
        Of what all are ranked by.
    interval : tuple of float, optional
        95 %.
    scores : dict of str to float
        The means of all figures over the folds.
    """

    rank: int
    layer: str
    kind: str
    settings: str
    score: float | None
    interval: Interval | None
    scores: Mapping[str, float]
    p_value: float | None
    is_tied: bool
    is_from_scratch: bool
    seconds: float
    error: str

    @property
    def head(self) -> str:
        """The head as text."""
        return f"{self.kind} {self.settings}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """All that a folder tells, as it was written.

    Attributes
    ----------
    folder, model : Path
        What was named, and the fitted model in it.
    entries : tuple of Entry
        Best first; none of a single fit.
    board : dict
        ``sweep.json``.
    epochs : list of dict of str to str
        Rows of ``epochs.csv``.
    metrics, record : dict
        ``metrics.json`` and ``model.json`` of the model; empty of an audit alone.
    advice, summary : dict
        ``advice.json``, and ``summary.json`` of a run.
    audit : dict
        ``audit.json``, of the folder, or of where ``summary`` says, or of `AUDIT_FOLDER` in it.
    issues : list of dict of str to str
        Rows of ``issues.csv`` beside it.
    """

    folder: Path
    model: Path
    entries: tuple[Entry, ...]
    board: Mapping[str, Any]
    epochs: list[dict[str, str]]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    advice: Mapping[str, Any]
    summary: Mapping[str, Any]
    audit: Mapping[str, Any]
    issues: list[dict[str, str]]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.folder.absolute().name

    @property
    def task(self) -> str:
        """What its heads say of an image."""
        return str(self.metrics["task"])

    @property
    def target(self) -> str:
        """The column with the truth."""
        return str(self.metrics["target"])

    @property
    def layer(self) -> str:
        """The layer that the model was fitted on."""
        return str(self.metrics["layer"])

    @property
    def metric(self) -> Metric:
        """What its heads are ranked by."""
        return Metric(PRIMARY[self.task])

    @property
    def fitted(self) -> list[Entry]:
        """The entries that have a score."""
        return [entry for entry in self.entries if entry.score is not None]

    @property
    def n_folds(self) -> int | None:
        """How many folds its rows were parted into; None where nobody said."""
        asked = self.board.get("data", self.metrics.get("data", {})).get("cv")
        return None if asked is None else int(asked)

    @property
    def orient(self) -> str:
        """Whether the images were turned as their files ask, as far as a model says."""
        parts = self.record.get("parts") or [{"recipe": {}}]
        return str(parts[0]["recipe"].get("orient", "ignore"))

    @property
    def folds(self) -> list[Mapping[str, Any]]:
        """What was measured on each fold by the first of the board, or by a fit's own folds."""
        first: Mapping[str, Any] = next(iter(self.board.get("configurations", ())), {})
        return list(first.get("folds", self.metrics.get("folds", ())))

    @property
    def head(self) -> str:
        """The model's head, with the settings that set it apart."""
        return self.entries[0].head if self.entries else str(self.metrics["head"])

    @property
    def test_score(self) -> float | None:
        """The model's score on the test split; None where there is none."""
        return self.metrics.get(self.metric.name)

    @property
    def best_score(self) -> tuple[float | None, Interval | None]:
        """The score to go by, with its interval: of the test split, or else over the folds."""
        if self.test_score is not None:
            return self.test_score, self.metrics["interval"]
        if self.fitted:
            return self.fitted[0].score, self.fitted[0].interval
        return self.metrics.get(f"cv_{self.metric.name}_mean"), None


def read_chapter(folder: Path) -> Chapter:
    """Read what a command left in a folder.

    Raises
    ------
    PipelineError
        It is something else.
    """
    board = read_json(folder / SUMMARY_NAME)
    model = folder if board is None else folder / BEST_NAME
    metrics, record = read_json(model / METRICS_NAME), read_json(model / MODEL_NAME)
    summary = read_json(folder / RUN_NAME) or {}
    audit, issues = _read_audit(folder, summary)
    if audit and metrics is None:
        metrics = record = {}
    if metrics is None or record is None:
        raise PipelineError(
            f"{str(folder)!r} holds nothing to report (no {SUMMARY_NAME} with a {BEST_NAME}, and no"
            f" {METRICS_NAME} with a {MODEL_NAME}); name what sweep, fit, run, advise or audit"
            " wrote"
        )
    entries = [] if board is None or not metrics else read_rows(folder / BOARD_NAME)
    try:
        metric = PRIMARY[metrics["task"]] if metrics else ""
        ranked = tuple(_read_entry(row, metric) for row in entries)
        missing = _METRICS - set(metrics) or {"parts"} - set(record) if metrics else set()
    except (KeyError, TypeError, ValueError) as error:
        missing = {str(error)}
    _check_missing(missing, folder)
    return Chapter(
        folder=folder,
        model=model,
        entries=ranked,
        board=board or {},
        epochs=read_rows(folder / EPOCHS_NAME),
        metrics=metrics,
        record=record,
        advice=read_json(folder / ADVICE_NAME) or {},
        summary=summary,
        audit=audit,
        issues=issues,
    )


def _read_audit(
    folder: Path, summary: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[dict[str, str]]]:
    """Read figures and issues of an audit: a folder's, or its run's; nothing of no audit."""
    told = summary.get("audit")
    out = Path(str(told.get("out"))) if isinstance(told, dict) else None
    places = [folder / AUDIT_FOLDER]
    if out is not None and out != Path(str(summary.get("out"))) / AUDIT_FOLDER:
        places = [*map(Path, list_places(str(out), folder))]
    for place in (folder, *places):
        audit = read_json(place / AUDIT_NAME)
        if audit is None:
            continue
        issues = read_rows(place / ISSUES_NAME)
        missing = _AUDIT - set(audit) if isinstance(audit.get("kinds"), dict) else {"kinds"}
        missing |= {name for name in HEADER for one in issues if name not in one}
        _check_missing(missing, place)
        return audit, issues
    return {}, []


def _check_missing(missing: set[str], folder: Path) -> None:
    if missing:
        raise PipelineError(
            f"the tables in {str(folder)!r} are damaged ({min(missing)}); run again what wrote them"
        )


def _read_entry(row: Mapping[str, str], metric: str) -> Entry:
    bounds = [read_float(row.get(name, "")) for name in INTERVAL_COLUMNS]
    means = {name.removesuffix("_mean"): row[name] for name in row if name.endswith("_mean")}
    return Entry(
        rank=int(row["rank"]),
        layer=row["layer"],
        kind=row["head"],
        settings=row["settings"],
        score=read_float(row.get(f"{metric}_mean", "")),
        interval=None if bounds[0] is None or bounds[1] is None else (bounds[0], bounds[1]),
        scores={name: float(text) for name, text in means.items() if text},
        p_value=read_float(row.get("p_value", "")),
        is_tied=row.get("tied_with_first") == "yes",
        is_from_scratch=row.get("from_scratch") == "yes",
        seconds=read_float(row.get("seconds", "")) or 0.0,
        error=row.get("error", ""),
    )


def read_float(text: str) -> float | None:
    """Read a cell; None of an empty one."""
    return float(text) if text else None


def read_rows(file: Path) -> list[dict[str, str]]:
    """Read a table by its rows; none where there is no such file."""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except OSError as error:
        raise_refusal(error, file)
        return []
    return [dict(zip(header, restore_texts(row), strict=False)) for row in rows]
