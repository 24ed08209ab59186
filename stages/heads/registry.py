"""The heads by name: parse their settings, fit them, load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.errors import InputError, UnknownNameError
from stages.heads.head import Head, check_features, read_record
from stages.heads.logreg import LogregSettings, fit_logreg, load_logreg
from stages.heads.mlp import MlpSettings, fit_mlp, load_mlp
from stages.heads.settings import parse_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadKind:
    """One kind of head: its settings dataclass, and the functions that fit and load it."""

    settings: type[Any]
    fit: Callable[..., Head]
    load: Callable[..., Head]


HEADS: dict[str, HeadKind] = {
    "logreg": HeadKind(settings=LogregSettings, fit=fit_logreg, load=load_logreg),
    "mlp": HeadKind(settings=MlpSettings, fit=fit_mlp, load=load_mlp),
}


def _find_kind(kind: str) -> HeadKind:
    if kind not in HEADS:
        raise UnknownNameError("head", kind, HEADS)
    return HEADS[kind]


def parse_settings(kind: str, settings: Mapping[str, object]) -> Any:
    """Return the settings of a head, with defaults for what is not given.

    Parameters
    ----------
    kind : str
        A name in `HEADS`.
    settings : mapping of str to object
        Text from the command line or typed values from YAML: ``{"C": "0.1"}``, ``{"C": 0.1}``.

    Returns
    -------
    LogregSettings or MlpSettings

    Raises
    ------
    UnknownNameError
        The head or one of the settings does not exist; the nearest name is proposed.
    InputError
        A value cannot be used.
    """
    return parse_fields(_find_kind(kind).settings, settings, where=kind)


def fit_head(
    kind: str, settings: Any, features: NDArray[Any], labels: NDArray[np.str_], *, seed: int
) -> Head:
    """Fit a head; nothing but the given rows is learnt from, and they are not changed.

    Parameters
    ----------
    kind : str
        A name in `HEADS`.
    settings : LogregSettings or MlpSettings
        What `parse_settings` returned for this kind.
    features : ndarray of float32 or float16, shape (n_rows, n_features)
    labels : ndarray of str, shape (n_rows,)
    seed : int
        The same seed and rows give the same head.

    Raises
    ------
    InputError
        No rows, fewer than two classes, or features that are NaN or infinite.
    """
    labels = np.asarray(labels, dtype=np.str_)
    if len(labels) != len(features):
        raise InputError(
            f"{len(features)} rows of features have {len(labels)} labels; give one each"
        )
    if not len(labels):
        raise InputError("there are no training rows; give the head at least two classes of them")
    if len(np.unique(labels)) == 1:
        raise InputError(
            f"all {len(labels)} training rows are labelled {str(labels[0])!r}; a head needs at"
            " least two classes"
        )
    check_features(features)
    return _find_kind(kind).fit(settings, features, labels, seed=seed)


def load_head(folder: Path) -> Head:
    """Load a head that was saved; nothing in the folder is run as code.

    Raises
    ------
    StageError
        The folder is not a saved head, is damaged, or holds types that we do not write.
    """
    record = read_record(folder)
    kind = _find_kind(record.kind)
    settings = parse_settings(record.kind, record.settings)
    return kind.load(folder, settings, record)
