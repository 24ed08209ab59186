"""Where a model fails, in figures: classes, tags, values, and how far its confidence holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.export.classifier import Predictions
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.charts import plot_points
from permafrost.pipeline.report.parts import (
    Axis,
    Metric,
    Part,
    Section,
    Table,
    Tiles,
    show_number,
    show_share,
)
from permafrost.pipeline.units import count
from permafrost.stages.datasets.targets import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    Targets,
    parse_targets,
)
from permafrost.stages.evaluation.certainty import (
    Bin,
    fill_bins,
    list_claims,
    measure_brier,
    measure_ece,
)
from permafrost.stages.evaluation.metrics import count_confusions, describe_classes, judge

# Classes that a matrix shows; of more, those that are confused most.
_MOST_CLASSES = 25
_MOST_PAIRS = 12
_MOST_POINTS = 800
_COLUMNS = {
    "precision": "Precision",
    "recall": "Recall",
    "average_precision": "Average precision",
    "f1": "F1",
    "support": "Rows",
}


def parse_truth(chapter: Chapter, found: Predictions) -> Targets:
    """Read the labels of predictions as what they are."""
    return parse_targets(found.labels, task=chapter.task, names=found.paths)[0]


def tell_classes(chapter: Chapter, found: Predictions) -> Section | None:
    """Show what is taken for what, and the figures of each class or tag."""
    if chapter.task == REGRESSION:
        return None
    truth, outputs, classes = parse_truth(chapter, found), found.outputs, found.classes
    table = chapter.metrics.get("per_class") or describe_classes(truth, outputs, classes)
    if chapter.task == MULTILABEL:
        finding = _tell_tags(table)
        return Section(name="tags", title="Tags", finding=finding, parts=[_list_classes(table)])
    confusion = chapter.metrics.get("confusion") or count_confusions(truth, outputs, classes)
    assert confusion is not None  # There is one class a row.
    names, counts = list(confusion["classes"]), np.array(confusion["counts"])
    parts = [_show_matrix(names, counts), _list_pairs(names, counts), _list_classes(table)]
    finding = _tell_confusions(names, counts)
    return Section(name="classes", title="What is taken for what", finding=finding, parts=parts)


def _tell_tags(table: Sequence[Mapping[str, Any]]) -> str:
    known = [one for one in table if one["average_precision"] is not None]
    if not known:
        return "No tag occurs among these rows."
    best, worst = (
        pick(known, key=lambda one: float(one["average_precision"])) for pick in (max, min)
    )
    return (
        f"Of {count(len(table), 'tag')}, {best['class']} is found best (average precision"
        f" {show_number(best['average_precision'])}) and {worst['class']} worst"
        f" ({show_number(worst['average_precision'])})."
    )


def _find_pairs(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (true, predicted) classes that are not the same, the most frequent first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    return [(int(place) // len(counts), int(place) % len(counts)) for place in order]


def _tell_confusions(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    n_rows, n_wrong = int(counts.sum()), int(counts.sum() - np.trace(counts))
    pairs = _find_pairs(counts)
    if not pairs:
        return f"All {count(n_rows, 'row')} are right."
    true, taken = pairs[0]
    times = int(counts[true, taken])
    return (
        f"{count(n_wrong, 'row')} of {n_rows:,} {'is' if n_wrong == 1 else 'are'} wrong; most often"
        f" {names[true]} is taken for {names[taken]} ({count(times, 'time')}"
        f" of {counts[true].sum():,})."
    )


def _show_matrix(names: Sequence[str], counts: NDArray[np.int64]) -> Table:
    shown = _choose_classes(counts)
    some = counts[np.ix_(shown, shown)]
    shades = some / np.maximum(counts[shown].sum(axis=1, keepdims=True), 1)
    left_out = len(names) - len(shown)
    return Table(
        title="Confusion matrix",
        header=("true \\ predicted", *(f">{names[i]}" for i in shown)),
        rows=[
            (names[i], *(f"{n:,}" if n else "·" for n in row.tolist()))
            for i, row in zip(shown, some, strict=True)
        ],
        shades=shades.tolist(),
        note="Each row is a true class; the darker, the larger the share of its images."
        + (f" The {len(shown)} classes that are confused most, of {len(names)}." * bool(left_out)),
    )


def _choose_classes(counts: NDArray[np.int64]) -> list[int]:
    """Return the classes to show, in their own order."""
    if len(counts) <= _MOST_CLASSES:
        return list(range(len(counts)))
    chosen = dict.fromkeys(chain.from_iterable(_find_pairs(counts)))
    return sorted([*chosen][:_MOST_CLASSES]) or list(range(_MOST_CLASSES))


def _list_pairs(names: Sequence[str], counts: NDArray[np.int64]) -> Table:
    """List what is confused most; of two or three classes the matrix says it as well."""
    pairs = _find_pairs(counts)[:_MOST_PAIRS] if len(names) > 3 else []
    rows = [
        (names[i], names[j], f"{counts[i, j]:,}", show_share(counts[i, j] / counts[i].sum()))
        for i, j in pairs
    ]
    header = ("True", "Predicted", ">Rows", ">Of the class")
    return Table(title="Confused most", header=header, rows=rows)


def _list_classes(table: Sequence[Mapping[str, Any]]) -> Table:
    figures = [name for name in _COLUMNS if name in table[0]]
    rows = [
        (
            str(one["class"]),
            *(f"{one[n]:,}" if n == "support" else Metric(n).show(one[n]) for n in figures),
        )
        for one in table
    ]
    what = "Tag" if "average_precision" in figures else "Class"
    header = [what, *(f">{_COLUMNS[name]}" for name in figures)]
    return Table(title=f"Each {what.lower()}", header=header, rows=rows)


def tell_values(chapter: Chapter, found: Predictions) -> Section | None:
    """Show predicted against true values, and what is left."""
    if chapter.task != REGRESSION:
        return None
    truth = np.asarray(parse_truth(chapter, found).values, np.float64)
    said = np.array(found.predicted, np.float64)
    rows = np.arange(len(truth))
    if len(rows) > _MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, _MOST_POINTS, replace=False))
    ends = [float(truth.min()), float(truth.max())]
    points = [(found.paths[i], float(truth[i]), float(said[i])) for i in rows]
    note = f"{len(rows):,} of {len(truth):,} rows." if len(rows) < len(truth) else ""
    charts = [
        plot_points(
            "Predicted against true",
            [{"x": t, "y": p, "said": _tell_value(path, t, p)} for path, t, p in points],
            axes=(Axis(f"True {chapter.target}"), Axis("Predicted")),
            line=[{"x": end, "y": end} for end in ends],
            note=note,
        ),
        plot_points(
            "Residuals",
            [{"x": p, "y": p - t, "said": _tell_value(path, t, p)} for path, t, p in points],
            axes=(Axis("Predicted"), Axis("Predicted − true")),
            line=[{"x": float(end), "y": 0.0} for end in (said.min(), said.max())],
            note=note,
        ),
    ]
    errors = said - truth
    within = float(np.quantile(np.abs(errors), 0.9))
    finding = (
        f"Nine of ten predictions are within {show_number(within)} of the truth, whose values go"
        f" from {show_number(ends[0])} to {show_number(ends[1])}; on the mean they are"
        f" {show_number(abs(float(errors.mean())))} too {'high' if errors.mean() > 0 else 'low'}."
    )
    return Section(name="values", title="Predicted against true", finding=finding, parts=charts)


def _tell_value(path: str, true: float, said: float) -> str:
    return f"{path}: {show_number(said)} predicted, {show_number(true)} true"


def tell_reliability(chapter: Chapter, found: Predictions) -> Section | None:
    """Show how often a claim of some confidence is right."""
    if chapter.task == REGRESSION:
        return None
    judged = judge(parse_truth(chapter, found), found.outputs, found.classes)
    claimed, right = list_claims(judged.outputs, judged.truth)
    claims, kept = claimed.mean(), right.mean()
    off = show_share(measure_ece(judged.outputs, judged.truth))
    sure = "about as sure as it may be"
    if abs(claims - kept) > 0.02:
        sure = "too sure of itself" if claims > kept else "more often right than it says"
    what = "class" if chapter.task == CLASSIFICATION else "tag"
    finding = (
        f"Its probability of a {what} is off by {off} on the mean"
        f" (expected calibration error): it claims {show_share(claims)} and keeps"
        f" {show_share(kept)}; it is {sure}."
    )
    tiles = [
        ("Expected calibration error", off, "0 is best"),
        ("Brier score", show_number(measure_brier(judged.outputs, judged.truth)), "0 is best"),
    ]
    for name in ("log_loss", "cv_log_loss_mean"):
        if chapter.metrics.get(name) is not None:
            tiles.append((Metric("log_loss").title, show_number(chapter.metrics[name]), "nats"))
            break
    parts = [Tiles(items=tiles), *_plot_bins(fill_bins(claimed, right))]
    title = "How far its confidence holds"
    return Section(name="reliability", title=title, finding=finding, parts=parts)


def _plot_bins(bins: Sequence[Bin]) -> list[Part]:
    rows = [
        {
            "x": one.claimed,
            "y": one.kept,
            "size": one.n,
            "said": f"claims {show_share(one.claimed)}, keeps {show_share(one.kept)},"
            f" {count(one.n, 'claim')}",
        }
        for one in bins
    ]
    chart = plot_points(
        "Reliability diagram",
        rows,
        axes=(Axis("Confidence", "~%"), Axis("Share that is right", "~%")),
        line=[{"x": 0, "y": 0}, {"x": 1, "y": 1}],
        note="On the dashed line, confidence is what it says. Large points are many claims.",
    )
    cells = [(show_share(one.claimed), show_share(one.kept), f"{one.n:,}") for one in bins]
    header = (">Confidence", ">Right", ">Claims")
    return [chart, Table(title="Its points", header=header, rows=cells)]
