"""What a head says of images, and of groups of them: written, and measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import remove_durably
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import name_outputs
from permafrost.pipeline.outputs import write_rows
from permafrost.stages.datasets.groups import GROUP_COLUMN
from permafrost.stages.datasets.table import COLUMN_NAMES
from permafrost.stages.datasets.targets import CLASSIFICATION, order_classes, parse_targets
from permafrost.stages.evaluation.intervals import bootstrap_interval
from permafrost.stages.evaluation.metrics import score

# In the place of a class, where none is probable enough.
UNSURE = "(unsure)"
_GROUPED = ".by-"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is said of n images.

    Attributes
    ----------
    paths, labels : sequence of str
        ``""`` is no label.
    outputs : ndarray of float64, shape (n, n_outputs)
        As `Head.predict` gives them.
    classes : ndarray of str, shape (n_classes,)
    order : sequence of str
        In which classes are told.
    keys : sequence of str
        The value of each in the column that groups are made by; ``""`` is none. None at all where
        nobody asked for groups.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    outputs: NDArray[np.float64]
    classes: NDArray[np.str_]
    task: str
    order: Sequence[str]
    keys: Sequence[str] = ()
    reject: float = 0.0

    def write(self, file: Path, *, by: str | None) -> None:
        """Write the table of images, and that of groups by a column beside it."""
        self._write(file, ["path", "label", "predicted"])
        grouped = None if by is None else grouped_path(file, by)
        for old in file.parent.glob(f"{_escape(file.name)}{_GROUPED}*.csv"):
            if old != grouped:
                remove_durably(old)
        if grouped is not None:
            groups, sizes = self._groups
            groups._write(grouped, [str(by), "label", "predicted", "images"], sizes)

    def _write(self, file: Path, header: list[str], *more: Sequence[int]) -> None:
        """Write columns by the names of a header, and a column of probabilities for each class.

        A class whose column would be taken for another when the file is read as a dataset, as one
        called ``path`` or ``split``, has it under ``p:path``.
        """
        predicted = name_outputs(self.outputs, self.classes, self.task)
        if self.reject:
            sure = self._is_sure.tolist()
            predicted = [name if one else UNSURE for name, one in zip(predicted, sure, strict=True)]
        places = order_classes(self.classes.tolist(), self.order)
        columns = (self.paths, self.labels, predicted, *more, *self.outputs[:, places].T.tolist())
        names = _name_columns(self.classes[places].tolist(), header)
        write_rows(file, [*header, *names], list(zip(*columns, strict=True)))

    @property
    def _is_sure(self) -> NDArray[np.bool_]:
        sure: NDArray[np.bool_] = self.outputs.max(axis=1, initial=0) >= self.reject
        return sure

    def measure(self, by: str | None, *, seed: int = 0) -> dict[str, Any]:
        """Measure what is said of groups by a column; nothing without one.

        Groups of which no image has a label, or whose images have several, are not scored.
        """
        if by is None:
            return {}
        groups, sizes = self._groups
        told = np.array([label != "" for label in groups.labels], np.bool_)
        figures: dict[str, Any] = {
            "column": by,
            "groups": len(sizes),
            "scored": int(told.sum()),
            "left_out": len(self.paths) - sum(sizes),
        }
        if not told.any():
            return {"by": figures}
        truth, _ = parse_targets(
            [label for label in groups.labels if label], task=self.task, names=groups.paths
        )
        said = groups.outputs[told]
        figures |= score(truth, said, self.classes)
        interval = bootstrap_interval(truth, said, self.classes, seed=seed)
        return {"by": figures | {"interval": interval and list(interval)}}

    def count_unsure(self) -> dict[str, Any]:
        """Count what is not answered; where all labels are known, say how right the rest is."""
        if not self.reject:
            return {}
        is_sure = self._is_sure
        figures: dict[str, Any] = {"reject": self.reject, "unsure": int((~is_sure).sum())}
        if all(self.labels):
            said = self.classes[self.outputs.argmax(axis=1)]
            right = said[is_sure] == np.array(self.labels, np.str_)[is_sure]
            figures["accuracy_of_answered"] = float(right.mean()) if is_sure.any() else None
        return figures

    @cached_property
    def _groups(self) -> tuple[Answers, list[int]]:
        """Average over the images of each group, and count them; without a value, none."""
        keys = np.array(self.keys, np.str_)
        kept = np.flatnonzero(keys != "")
        names, group_of_row = np.unique(keys[kept], return_inverse=True)
        sizes = np.bincount(group_of_row, minlength=len(names))
        sums = np.zeros((len(names), self.outputs.shape[1]))
        np.add.at(sums, group_of_row, self.outputs[kept])
        labels: list[set[str]] = [set() for _ in names]
        for group, row in zip(group_of_row.tolist(), kept.tolist(), strict=True):
            labels[group] |= {self.labels[row]} - {""}
        groups = replace(
            self,
            paths=names.tolist(),
            labels=[one.pop() if len(one) == 1 else "" for one in labels],
            outputs=sums / np.maximum(sizes, 1)[:, None],
            keys=(),
        )
        return groups, sizes.tolist()


def grouped_path(file: Path, by: str) -> Path:
    """Return where what is said of groups by a column is written."""
    column = re.sub(r"[^\w.=-]", "-", by)
    return file.with_name(f"{file.name}{_GROUPED}{column}.csv")


def _name_columns(classes: Sequence[str], header: Sequence[str]) -> list[str]:
    """Name the column of each class: as the class, where that means nothing else."""
    taken = {"path", *COLUMN_NAMES, GROUP_COLUMN, "predicted", *map(str.casefold, header)}
    names = []
    for name in classes:
        column = name
        while column.strip().casefold() in taken or (column != name and column in classes):
            column = f"p:{column}"
        names.append(column)
    return names


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def check_reject(reject: float, *, task: str, classes: Sequence[str]) -> None:
    """Raise PipelineError where nothing can be left unsure.

    That takes a classification, and no class by the name of `UNSURE`.
    """
    if not reject:
        return
    if task != CLASSIFICATION:
        raise PipelineError(f"--reject goes with a head for {CLASSIFICATION}; drop it")
    if UNSURE in classes:
        raise PipelineError(f"--reject: {UNSURE!r} is a class of this head; name it otherwise")


def describe_groups(found: Mapping[str, Any]) -> str:
    """Write the figures of groups as a person wants them."""
    text = f"  by {found['column']}: {found['groups']} groups"
    if found.get("accuracy") is None:
        return f"{text}, none with one label"
    low, high = found["interval"]
    return (
        f"{text}, accuracy {found['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f}), log loss"
        f" {found['log_loss']:.4f}"
    )
