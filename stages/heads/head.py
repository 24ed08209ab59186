"""What every head is: what it says of rows, the checks of its input, and its folder.

A saved head is a folder of two files: ``head.json`` says what it is, and ``head.skops`` or
``head.keras`` holds what was fitted. Neither is a pickle, and loading either runs no code of
theirs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from permafrost.command import COMMAND
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.errors import InputError, WeightsError
from permafrost.stages.heads.calibration import Calibration
from permafrost.stages.heads.fit_rows import Epoch
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """What is known of every head.

    Attributes
    ----------
    kind : str
        Its name in `stages.heads.HEADS`.
    settings : dataclass
        What it was fitted with, frozen.
    task : str
        One of `stages.datasets.targets.TASKS`.
    classes : ndarray of str, shape (n_classes,)
        Sorted; those among the training rows for a classification, all of them for a multilabel
        task, none for a regression.
    calibration : Calibration, optional
        What becomes of the probabilities of a classification; fitted out of fold on the same rows.
    """

    kind: str
    settings: Any
    task: str
    classes: NDArray[np.str_]
    calibration: Calibration | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes above, for another that has them too."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(HeadFacts)}

    def finish(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate outputs, where that is to be done."""
        return self.calibration.apply(outputs) if self.calibration else outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearForm:
    """A head as ``link(scaled @ weights + bias)``, for export.

    Attributes
    ----------
    scale : {"standard", "l2", "none", "layer"}
        ``(features - mean) / std``, ``features / norm(features)`` (zeros stay zeros), nothing, or
        the second of these for the features of each layer, see `Head.widths`.
    mean, std : ndarray of float64, shape (n_features,), or None
        Of scale ``standard`` only.
    weights : ndarray of float64, shape (n_features, n_outputs)
        Two classes have two outputs.
    bias : ndarray of float64, shape (n_outputs,)
    link : {"softmax", "sigmoid", "identity"}
    """

    scale: str
    mean: NDArray[np.float64] | None
    std: NDArray[np.float64] | None
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head(HeadFacts, ABC):
    """What was fitted on the rows of one feature matrix.

    Attributes
    ----------
    widths : tuple of int
        Of layers whose part of each row gets the length 1 first; none for scales other than
        ``layer``.
    history : tuple of Epoch
        Of the training of a network; none where it was loaded.
    """

    widths: tuple[int, ...] = ()
    history: tuple[Epoch, ...] = ()

    @property
    @abstractmethod
    def n_features(self) -> int:
        """The length of one row of features."""

    @abstractmethod
    def make_predictor(self) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
        """Return the function from a batch of rows to outputs that are not calibrated yet."""

    @abstractmethod
    def write_fitted(self, folder: Path) -> Sequence[str]:
        """Write what was fitted into a folder, and return which packages read it back."""

    def linear_form(self) -> LinearForm | None:
        """Return scaling, weights and link, before calibration; None where it is not linear."""
        return None

    def predict(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Say what there is to say of every row, batch by batch so that memory stays bounded.

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
        if features.ndim != 2 or features.shape[1] == 0:
            raise InputError(
                f"features of shape {features.shape} are not a matrix; give one row an image,"
                " flattened to (n_rows, n_features)"
            )
        # A row's sum is finite exactly when the row is, and needs no mask as large as the matrix.
        with np.errstate(invalid="ignore"):
            check_finite(features.sum(axis=1, dtype=np.float64), np.arange(len(features)))
        if features.shape[1] != self.n_features:
            raise InputError(
                f"this head was fitted on {self.n_features} features a row, not"
                f" {features.shape[1]}; give it the layer that it was fitted on"
            )
        nothing = np.empty((0, max(1, len(self.classes))))
        said = map(self.make_predictor(), _iterate_batches(features))
        return self.finish(np.concatenate([nothing, *said]))

    def save(self, folder: Path) -> None:
        """Write the head into `folder`, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        packages = "numpy", *self.write_fitted(folder)
        record = {
            "kind": self.kind,
            "settings": dataclasses.asdict(self.settings),
            "task": self.task,
            "classes": self.classes.tolist(),
            "n_features": self.n_features,
            **({"widths": self.widths} if self.widths else {}),
            "versions": {package: version(package) for package in packages},
            **({"calibration": self.calibration.to_dict()} if self.calibration else {}),
        }
        text = json.dumps(record, indent=2) + "\n"
        (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def _iterate_batches(features: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield consecutive rows as float32, about `BATCH_BYTES` at a time; float32 is not copied."""
    n_rows = max(1, BATCH_BYTES // (4 * features.shape[1]))
    for start in range(0, len(features), n_rows):
        yield features[start : start + n_rows].astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord(HeadFacts):
    """What ``head.json`` says."""

    n_features: int
    widths: tuple[int, ...] = ()


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
        found = record.get("calibration")
        return HeadRecord(
            kind=str(record["kind"]),
            settings=dict(record["settings"]),
            task=task,
            classes=classes,
            n_features=int(record["n_features"]),
            widths=tuple(map(int, record.get("widths", ()))),
            calibration=None
            if found is None
            else Calibration.from_dict(found, n_classes=len(classes)),
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


def check_widths(head: Head, widths: Sequence[int]) -> None:
    """Raise InputError where a head scales layer by layer, and `widths` are those of others."""
    if head.widths and head.widths != tuple(widths):
        wanted = ", ".join(map(str, head.widths))
        raise InputError(
            f"the head was fitted on layers of {wanted} features, and these"
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
