"""What was measured of rows, as suspicions that name images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.audit.issues import Issue
from permafrost.pipeline.audit.unseen import UnseenLabels
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.audit.copies import (
    compare_thumbnails,
    find_duplicates,
    find_near_pairs,
    score_outliers,
)
from permafrost.stages.audit.labels import WrongLabels, judge_labels, judge_values
from permafrost.stages.audit.patterns import GroupAccuracy, OrderLeak
from permafrost.stages.audit.pictures import PictureFigures, judge_pictures
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL
from permafrost.stages.evaluation.neighbours import Nearest

# What copies are that do no harm but in numbers; across splits they flatter a test.
_HARMLESS, _CROSSING = 0.5, 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What issues say of rows.

    Attributes
    ----------
    paths, labels, splits : sequence of str, length n
    digests : ndarray of uint8, shape (n, 32)
    """

    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    digests: NDArray[np.uint8]

    @classmethod
    def of(cls, files: FeatureFiles, column: str) -> Table:
        """Read it from files of features."""
        return cls(
            paths=files.paths,
            labels=files.column(column),
            splits=files.splits.tolist(),
            digests=files.digests,
        )

    def name(self, row: int, *, kind: str, score: float, **told: str) -> Issue:
        """Return an issue of a row."""
        path, label = self.paths[row], self.labels[row]
        return Issue(kind=kind, score=score, path=path, label=label, **told)

    def relate(self, row: int, other: int) -> tuple[bool, bool, str]:
        """Tell whether labels differ, whether splits do, and say so of the other row."""
        pair = (row, other)
        contradicts = len({self.labels[one] for one in pair} - {""}) > 1
        crosses = len({self.splits[one] for one in pair} - {""}) > 1
        told = [f"the other is labelled {self.labels[other]}"] if contradicts else []
        told += [f"the other is in split {self.splits[other]}"] if crosses else []
        return contradicts, crosses, ", ".join(told)


def judge_truth(unseen: UnseenLabels) -> tuple[WrongLabels, NDArray[np.int64] | None]:
    """Judge labels, values or tags; return the column of each row's worst tag, where there are."""
    targets, outputs = unseen.targets, unseen.outputs
    if targets.task == CLASSIFICATION:
        return judge_labels(np.searchsorted(targets.classes, targets.values), outputs), None
    if targets.task != MULTILABEL:
        return judge_values(targets.values, outputs[:, 0]), None
    tags = [
        judge_labels(has_tag.astype(np.int64), np.column_stack([1 - p, p]))
        for has_tag, p in zip(targets.values.T, outputs.T, strict=True)
    ]
    scores = np.column_stack([one.scores for one in tags])
    is_pruned = np.column_stack([one.is_pruned for one in tags])
    some_pruned: NDArray[np.bool_] = np.logical_or.reduce(is_pruned, axis=1)
    worst = scores.argmax(axis=1)
    found = WrongLabels(
        scores=scores.max(axis=1),
        suggested=1 - targets.values[np.arange(len(worst)), worst].astype(np.int64),
        is_pruned=some_pruned,
    )
    return found, worst


def list_labels(
    table: Table, unseen: UnseenLabels, wrong: WrongLabels, tags: NDArray[np.int64] | None
) -> Iterator[Issue]:
    """Yield the labels that are probably wrong."""
    classes, task = unseen.targets.classes, unseen.targets.task
    for place in np.flatnonzero(wrong.scores > 0):
        said, row = unseen.outputs[place], int(unseen.rows[place])
        if tags is not None:
            tag, is_there = str(classes[tags[place]]), bool(wrong.suggested[place])
            suggested = f"{'with' if is_there else 'without'} {tag}"
            detail = f"{said[tags[place]]:.3f} {tag}"
        elif task == CLASSIFICATION:
            suggested = str(classes[wrong.suggested[place]])
            detail = f"{said[wrong.suggested[place]]:.3f} {suggested}"
        else:
            suggested, detail = f"{said[0]:.6g}", "far from what its features say"
        score = float(wrong.scores[place])
        yield table.name(row, kind="label", score=score, suggested=suggested, detail=detail)


def list_copies(table: Table) -> Iterator[Issue]:
    """Yield images that are there twice."""
    for first, row in find_duplicates(table.digests):
        contradicts, crosses, told = table.relate(row, first)
        score = 1.0 if contradicts else _CROSSING if crosses else _HARMLESS
        yield table.name(row, kind="duplicate", score=score, other=table.paths[first], detail=told)


def list_near(table: Table, nearest: Nearest, figures: PictureFigures) -> Iterator[Issue]:
    """Yield images that are nearly the same."""

    def compare(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        alike = compare_thumbnails(figures.show(rows), figures.show(others))
        alike[~(figures.known[rows] & figures.known[others])] = np.nan
        return alike

    for one in find_near_pairs(nearest, table.digests, compare):
        contradicts, crosses, told = table.relate(one.row, one.other)
        yield table.name(
            one.row,
            kind=one.kind,
            score=(1 + one.score) / 2 if contradicts or crosses else one.score,
            other=table.paths[one.other],
            detail="; ".join(filter(None, (told, one.detail))),
        )


def list_outliers(table: Table, nearest: Nearest) -> Iterator[Issue]:
    """Yield images that are far from all others."""
    scores = score_outliers(nearest)
    for row in np.flatnonzero(scores > 0).tolist():
        other = table.paths[int(nearest.positions[row, 0])]
        detail = f"its nearest, {other}, has a cosine of {nearest.cosines[row, 0]:.2f}"
        yield table.name(row, kind="outlier", score=float(scores[row]), detail=detail)


def list_pictures(table: Table, figures: PictureFigures) -> Iterator[Issue]:
    """Yield blurred, dark, bright, tiny and oddly shaped images."""
    for odd in judge_pictures(figures):
        yield table.name(odd.row, kind=odd.kind, score=odd.score, detail=odd.detail)


def list_patterns(groups: Sequence[GroupAccuracy], orders: Sequence[OrderLeak]) -> Iterator[Issue]:
    """Yield groups that do badly, and orders that tell something."""
    for one in groups:
        if one.is_bad:
            low, high = one.interval
            yield Issue(
                kind="group",
                score=1 - one.p_value / 2,
                detail=f"{one.column}={one.value}: accuracy {one.accuracy:.3f} ({low:.3f} to"
                f" {high:.3f}) in {one.n_rows} rows, {one.rest:.3f} in the others",
            )
    for leak in orders:
        if leak.is_evident:
            yield Issue(
                kind="order",
                score=min(1.0, 0.5 + leak.correlation / 2),
                detail=f"the order of {leak.order} tells the {leak.tells}: neighbours correlate"
                f" by {leak.correlation:.2f}",
            )
