"""What a head says of every labelled row, each time without having been fitted on it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import published
from permafrost.pipeline.tasks.rows import LabelledRows
from permafrost.refusals import raise_refusal
from permafrost.stages.datasets.targets import spread_columns
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.matrices.matrix import Rows

UNSEEN_NAME = "unseen.npz"
# In the place of a fold's number, of rows that are in none: of the test split, or without a label.
TEST = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenRows:
    """Outputs for labelled rows, by a head that was not fitted on them.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Ascending, of `FeatureFiles`.
    outputs : ndarray of float64, shape (m, n_outputs)
        As `Head.predict` gives them.
    folds : ndarray of int64, shape (m,)
        The fold that a row was measured in; `TEST` where the head on all training rows says it.
    classes : ndarray of str, shape (n_classes,)
        Of the columns; none for a regression.
    """

    rows: Rows
    outputs: NDArray[np.float64]
    folds: NDArray[np.int64]
    classes: NDArray[np.str_]


def join_rows(
    *parts: tuple[Rows, NDArray[np.float64], NDArray[np.int64] | int], classes: NDArray[np.str_]
) -> UnseenRows:
    """Put together what is said of rows: each part is rows, outputs of all `classes`, and folds."""
    rows = np.concatenate([part for part, _, _ in parts])
    order = np.argsort(rows)
    return UnseenRows(
        rows=rows[order],
        outputs=np.concatenate([outputs for _, outputs, _ in parts])[order],
        folds=np.concatenate([np.broadcast_to(n, len(part)) for part, _, n in parts])[order],
        classes=classes,
    )


def join_unseen(
    labelled: LabelledRows,
    folds: Sequence[Fold],
    out_of_fold: NDArray[np.float64],
    tested: tuple[NDArray[np.float64], NDArray[np.str_]],
) -> UnseenRows:
    """Put together what is said of the rows of the folds and of those for testing.

    Parameters
    ----------
    folds : sequence of Fold
        Positions into its rows for folds.
    out_of_fold : ndarray of float64, shape (n_folds_rows, n_outputs)
        A column for each class of the targets.
    tested : tuple of ndarray of float64, shape (n_test, n_outputs), and ndarray of str
        With the classes of its columns.
    """
    numbers = np.full(len(labelled.folds), TEST)
    for number, fold in enumerate(folds):
        numbers[fold.test] = number
    classes = labelled.targets.classes
    test = spread_columns(*tested, classes)
    held = (labelled.folds, out_of_fold, numbers)
    return join_rows(held, (labelled.test, test, TEST), classes=classes)


def keep_unseen(folder: Path, found: UnseenRows, *, key: str) -> None:
    """Keep what was predicted beside the head."""
    with published(folder / UNSEEN_NAME) as temporary, temporary.open("wb") as stream:
        np.savez(stream, key=np.array(key), **asdict(found))


def name_unseen(fit_key: str, n_folds: int) -> str:
    """Return the key that predictions are kept under."""
    return f"{fit_key} {n_folds} folds"


def recall_unseen(folder: Path, *, key: str) -> UnseenRows | None:
    """Read what was kept; None where it is of another fit, damaged or missing."""
    file = folder / UNSEEN_NAME
    try:
        with np.load(file, allow_pickle=False) as found:
            if str(found["key"]) != key:
                return None
            return UnseenRows(**{one.name: found[one.name] for one in fields(UnseenRows)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise_refusal(error, file)
        return None
