"""What every head is: the protocol, the checks of its input, and its folder.

A saved head is a folder of two files: ``head.json`` says what it is, and ``head.skops`` or
``head.keras`` holds what was fitted. Neither is a pickle, and loading either runs no code of
theirs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from permafrost.command import COMMAND
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.errors import InputError, WeightsError
from permafrost.stages.matrices.joined import stack_rows
from permafrost.stages.matrices.matrix import Matrix, Rows, iterate_rows
from permafrost.stages.matrices.scaling import BATCH_BYTES, check_finite

RECORD_NAME = "head.json"
MIN_CLASSES = {CLASSIFICATION: 2, MULTILABEL: 1, REGRESSION: 0}

# What the zip, JSON, numpy, skops and Keras readers raise on a file that is not what we wrote.
DAMAGE = (
    *(OSError, EOFError, BadZipFile, zlib.error, ImportError, RuntimeError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, WeightsError),
)


class Head(Protocol):
    """What was fitted on the rows of one feature matrix."""

    @property
    def kind(self) -> str:
        """Its name in `stages.heads.HEADS`."""
        ...

    @property
    def settings(self) -> Any:
        """The frozen settings that it was fitted with."""
        ...

    @property
    def task(self) -> str:
        """One of `stages.datasets.targets.TASKS`."""
        ...

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class names, sorted, shape (n_classes,); none for a regression.

        Those among the training rows for a classification, all of them for a multilabel task.
        """
        ...

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        ...

    def predict(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Say what there is to say of every row.

        Parameters
        ----------
        features : ndarray of float32 or float16, shape (n_rows, n_features)

        Returns
        -------
        ndarray of float64, shape (n_rows, n_outputs)
            ``classification``: the probability of each of `classes`; rows sum to 1.
            ``multilabel``: the probability of each of `classes`, independent of the others.
            ``regression``: one column, the value.

        Raises
        ------
        InputError
            The rows have another length than those of the fit, or hold NaN or infinity.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the head into `folder`, which is made if it is missing."""
        ...


def check_features(features: NDArray[Any]) -> None:
    """Raise InputError unless `features` is a finite matrix, shape (n_rows, n_features)."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise InputError(
            f"features of shape {features.shape} are not a matrix; give one row an image,"
            " flattened to (n_rows, n_features)"
        )
    # A row's sum is finite exactly when the row is, and needs no mask as large as the matrix.
    with np.errstate(invalid="ignore"):
        check_finite(features.sum(axis=1, dtype=np.float64), np.arange(len(features)))


def iterate_batches(features: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield consecutive rows as float32, about `BATCH_BYTES` at a time; float32 is not copied."""
    n_rows = max(1, BATCH_BYTES // (4 * features.shape[1]))
    for start in range(0, len(features), n_rows):
        yield features[start : start + n_rows].astype(np.float32, copy=False)


def predict_by_batch(
    head: Head,
    features: NDArray[Any],
    *,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Check `features` and apply `predict` to one batch after another, so memory stays bounded."""
    check_features(features)
    if features.shape[1] != head.n_features:
        raise InputError(
            f"this head was fitted on {head.n_features} features a row, not {features.shape[1]};"
            " give it the layer that it was fitted on"
        )
    nothing = np.empty((0, max(1, len(head.classes))))
    return np.concatenate([nothing, *map(predict, iterate_batches(features))])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """What ``head.json`` says; `widths` are those of `EstimatorHead`, `calibration` is unread."""

    kind: str
    settings: dict[str, object]
    task: str
    classes: NDArray[np.str_]
    n_features: int
    widths: tuple[int, ...] = ()
    calibration: dict[str, Any] | None = None


def write_record(folder: Path, head: Head, *, packages: tuple[str, ...]) -> None:
    """Write ``head.json`` for a `head` that `packages` are needed to read back."""
    record = {
        "kind": head.kind,
        "settings": dataclasses.asdict(head.settings),
        "task": head.task,
        "classes": head.classes.tolist(),
        "n_features": head.n_features,
        **({"widths": widths} if (widths := getattr(head, "widths", ())) else {}),
        "versions": {package: version(package) for package in ("numpy", *packages)},
    }
    text = json.dumps(record, indent=2) + "\n"
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> HeadRecord:
    """Read ``head.json``; the settings are not parsed yet.

    Raises
    ------
    InputError
        The folder is not a saved head.
    """
    with refuse_damage(folder):
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        # The first heads were classifiers, and did not say so.
        task = str(record.get("task", CLASSIFICATION))
        classes = np.array([str(name) for name in record["classes"]], np.str_)
        if len(classes) < MIN_CLASSES[task] or not np.array_equal(classes, np.unique(classes)):
            raise ValueError(f"{RECORD_NAME} does not list the classes of a {task} in order")
        return HeadRecord(
            kind=str(record["kind"]),
            settings=dict(record["settings"]),
            task=task,
            classes=classes,
            n_features=int(record["n_features"]),
            widths=tuple(map(int, record.get("widths", ()))),
            calibration=record.get("calibration"),
        )


@contextlib.contextmanager
def refuse_damage(folder: Path) -> Iterator[None]:
    """Turn whatever reading a missing, damaged or foreign file raises into one InputError."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{str(folder)!r} is not a head that can be loaded ({reason[:200]});"
            f" fit one with: {COMMAND} fit"
        ) from error


def check_widths(head: object, widths: Sequence[int]) -> None:
    """Raise InputError where a head scales layer by layer, and `widths` are those of others."""
    wanted = getattr(head, "widths", ())
    if wanted and tuple(wanted) != tuple(widths):
        raise InputError(
            f"the head was fitted on layers of {', '.join(map(str, wanted))} features, and these"
            f" have {', '.join(map(str, widths))}; give it the layers that it was fitted on"
        )


def predict_rows(head: Head, matrix: Matrix, rows: Rows) -> NDArray[np.float64]:
    """Predict rows of a matrix, block by block: ndarray of float64, shape (m, n_outputs).

    Raises
    ------
    InputError
        The head scales each of its layers, and those of the matrix have other widths.
    """
    check_widths(head, matrix.widths)
    n_outputs = max(1, len(head.classes))
    blocks = [head.predict(block) for _, block in iterate_rows(matrix, rows)]
    return np.concatenate([np.empty((0, n_outputs)), *blocks])


def predict_images(
    head: Head, matrix: Matrix, rows: Rows, *, n_views: int = 1
) -> NDArray[np.float64]:
    """Predict rows of a matrix that stacks so many views, on the mean over all of them."""
    seen = stack_rows(rows, n_rows=matrix.shape[0] // n_views, times=n_views)
    return average_views(predict_rows(head, matrix, seen), n_views)


def average_views(outputs: NDArray[np.float64], n_views: int) -> NDArray[np.float64]:
    """Average outputs that come view by view, shape (n_views * m, n_outputs), over the views."""
    if n_views == 1:
        return outputs
    mean: NDArray[np.float64] = outputs.reshape(n_views, -1, outputs.shape[1]).mean(axis=0)
    return mean
