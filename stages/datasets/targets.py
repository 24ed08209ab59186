"""What a head is to say of an image: one of several classes, any number of them, or a value."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.numbers import parse_number

_log = logging.getLogger(__name__)

CLASSIFICATION = "classification"
MULTILABEL = "multilabel"
REGRESSION = "regression"
TASKS = (CLASSIFICATION, MULTILABEL, REGRESSION)
SEPARATOR = ";"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The truth about n rows.

    Attributes
    ----------
    task : str
        One of `TASKS`.
    values : ndarray, shape (n,) or (n, n_classes)
        ``classification``: str, the class. ``multilabel``: bool, whether each of `classes` is
        there. ``regression``: float64.
    classes : ndarray of str, shape (n_classes,)
        Sorted; none for a regression.
    """

    task: str
    values: NDArray[Any]
    classes: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: NDArray[np.int64]) -> Targets:
        """Return some of the rows, with the same classes."""
        return Targets(task=self.task, values=self.values[rows], classes=self.classes)


def parse_targets(
    texts: Sequence[str], *, task: str, names: Sequence[str], column: str = "label"
) -> tuple[Targets, NDArray[np.bool_]]:
    """Read a column of the dataset's table.

    Parameters
    ----------
    texts : sequence of str, length n
        ``""`` where nothing is known. For ``multilabel``, classes separated by ``;``; a lone
        ``;`` says that none applies.
    task : str
        One of `TASKS`.
    names : sequence of str, length n
        What messages call the rows.
    column : str
        What messages call the column.

    Returns
    -------
    targets : Targets
        Of all n rows; what it says of unknown ones means nothing.
    known : ndarray of bool, shape (n,)

    Raises
    ------
    UnknownNameError
        There is no such task.
    InputError
        A regression's target is not a finite number.
    """
    if task == CLASSIFICATION:
        labels = np.array(texts, np.str_)
        known = labels != ""
        return Targets(task=task, values=labels, classes=np.unique(labels[known])), known
    known = np.array([bool(text.strip()) for text in texts], np.bool_)
    if task == MULTILABEL:
        return _parse_tags(texts), known
    if task == REGRESSION:
        values = [
            _parse_value(text, name, column) if text.strip() else np.nan
            for text, name in zip(texts, names, strict=True)
        ]
        nothing = np.empty(0, np.str_)
        return Targets(task=task, values=np.array(values, np.float64), classes=nothing), known
    raise UnknownNameError("task", task, TASKS)


def _parse_tags(texts: Sequence[str]) -> Targets:
    tags = [{tag.strip() for tag in text.split(SEPARATOR)} - {""} for text in texts]
    classes = np.array(sorted(set().union(*tags)), np.str_)
    values = np.array([[name in found for name in classes.tolist()] for found in tags], np.bool_)
    return Targets(task=MULTILABEL, values=values.reshape(len(tags), -1), classes=classes)


def _parse_value(text: str, name: str, column: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        raise InputError(
            f"{column} {text!r} of {name!r} is not a finite number; correct it, leave it empty,"
            " or drop --task regression"
        ) from None


def find_classes(labels: Sequence[str], classes: Sequence[str], *, where: str) -> list[int]:
    """Return the rows whose label is one of `classes`.

    Raises
    ------
    UnknownNameError
        No row has one of them.
    InputError
        No row has a label at all.
    """
    known = sorted(set(labels) - {""})
    if not known:
        raise InputError(f"no image {where} has a label; drop --classes, or say --labels")
    for name in classes:
        if name not in known:
            raise UnknownNameError("class", name, known, where=where)
    wanted = set(classes)
    return [row for row, label in enumerate(labels) if label in wanted]


def order_classes(classes: Iterable[str], order: Sequence[str]) -> list[int]:
    """Return the places of classes, those of `order` first, as there; all others as they are."""
    ranks = {name: rank for rank, name in enumerate(order)}
    places = [ranks.get(name, len(ranks)) for name in classes]
    return sorted(range(len(places)), key=places.__getitem__)


def warn_of_lookalikes(names: Iterable[str], *, what: str) -> None:
    """Warn of names that differ only by blanks, case or the way their letters are encoded.

    Parameters
    ----------
    names : iterable of str
    what : str
        What messages call them, in the plural.
    """
    first: dict[str, str] = {}
    pairs = []
    for name in sorted(set(names)):
        look = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        if first.setdefault(look, name) != name:
            pairs.append((first[look], name))
    if pairs:
        _log.warning(
            "%d %s differ from others only by blanks, case or the way letters are encoded, and are"
            " classes of their own: %a and %a, for example; write them alike",
            *(len(pairs), what, *pairs[0]),
        )


def spread_columns(
    values: NDArray[Any], classes: NDArray[np.str_], names: NDArray[np.str_]
) -> NDArray[Any]:
    """Give `values`, a column for each of `classes`, one for each of `names`: zeros where new.

    Parameters
    ----------
    values : ndarray, shape (n, n_classes)
    classes, names : ndarray of str
        Sorted; all of `classes` are among `names`.

    Returns
    -------
    ndarray, shape (n, n_names)
    """
    if len(classes) == len(names):
        return values
    spread = np.zeros((len(values), len(names)), values.dtype)
    spread[:, np.searchsorted(names, classes)] = values
    return spread
