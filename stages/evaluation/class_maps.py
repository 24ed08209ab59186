"""Where a linear head looks: how much each position of a map says for each class.

A linear head's score is a sum over its features, and a feature that is the mean of a map over its
positions is a sum over them. So the score is a sum over positions, exactly: no gradient and no
second pass is needed (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR
2016, of whose class activation maps these are the ones with bias and scaling undone).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.errors import InputError
from permafrost.stages.heads import Head, LinearForm
from permafrost.stages.heads.head import check_widths

MEAN = "avg"
# What keeps each position's values, as they are.
_WHOLE = ("none", "flatten")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMap:
    """What one layer gives of an image before it is pooled.

    Attributes
    ----------
    values : ndarray of float, shape (*positions, channels), or with the channels elsewhere
    pooling : str
        What the head's features are of it: ``"avg"``, or ``"none"`` and ``"flatten"`` for all of
        it.
    channel_axis : int
        Of `values`.
    """

    values: NDArray[Any]
    pooling: str
    channel_axis: int = -1

    @property
    def channels_last(self) -> NDArray[np.float64]:
        """The values with the channels behind the positions."""
        return np.moveaxis(self.values.astype(np.float64), self.channel_axis, -1)

    @property
    def features(self) -> NDArray[np.float64]:
        """The part of the head's row that comes from here: ndarray, shape (n_features,)."""
        if self.pooling in _WHOLE:
            return self.values.astype(np.float64).ravel()
        maps = self.channels_last
        means: NDArray[np.float64] = maps.reshape(-1, maps.shape[-1]).mean(axis=0)
        return means

    def spread(
        self, weights: NDArray[np.float64], mean: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Share ``(features - mean) @ weights + bias`` out among the positions.

        Parameters
        ----------
        weights : ndarray, shape (n_features, n_outputs)
        mean : ndarray, shape (n_features,)
        bias : ndarray, shape (n_outputs,)
            Every position gets an equal share of it.

        Returns
        -------
        ndarray, shape (*positions, n_outputs)
        """
        maps = self.channels_last
        n_positions = math.prod(maps.shape[:-1])
        if self.pooling in _WHOLE:
            shape = self.values.shape
            axis = self.channel_axis % len(shape)
            own = np.moveaxis(weights.reshape(*shape, -1), axis, -2)
            centred = maps - np.moveaxis(mean.reshape(shape), axis, -1)
            terms = np.einsum("...c,...ck->...k", centred, own)
        else:
            terms = (maps - mean) @ (weights / n_positions)
        spread: NDArray[np.float64] = terms + bias / n_positions
        return spread


def find_linear_form(head: Head) -> LinearForm:
    """Return a head's weights; `InputError` where it is not linear, or calibrated."""
    if head.calibration is not None:
        raise InputError(
            f"the head {head.kind!r} is calibrated: what it says is no sum over positions; fit it"
            " without --calibrate"
        )
    form = head.linear_form()
    if form is None:
        raise InputError(
            f"the head {head.kind!r} is not linear: what it says is no sum over positions; fit"
            " logreg, linear_svm, ridge or sgd on the layer, or see what the layer shows with"
            " show --image X --backbone B --layers L"
        )
    return form


def check_poolings(poolings: Sequence[str]) -> None:
    """Raise InputError unless features that are pooled so are sums over positions."""
    for pooling in poolings:
        if pooling not in (MEAN, *_WHOLE):
            raise InputError(
                f"features with the pooling :{pooling} are no mean over positions; fit on the"
                f" layer's :{MEAN}"
            )


def map_classes(head: Head, parts: Sequence[PartMap]) -> list[NDArray[np.float64]]:
    """Return how much each position says for each output of a linear head.

    The sum over all positions, of all parts, is the head's score before its softmax or sigmoid; of
    two classes, where scikit-learn has one score for the second, that of the first is its negative.

    Parameters
    ----------
    parts : sequence of PartMap
        Of the layers whose features stand side by side, in the head's order.

    Returns
    -------
    list of ndarray of float64, each of shape (*positions, n_outputs)

    Raises
    ------
    InputError
        The head is not linear, the pooling no mean, or the layers are not those of the fit.
    """
    form = find_linear_form(head)
    check_poolings([part.pooling for part in parts])
    rows = [part.features for part in parts]
    widths = [len(row) for row in rows]
    check_widths(head, widths)
    if sum(widths) != head.n_features:
        raise InputError(
            f"this head was fitted on {head.n_features} features, and the maps give {sum(widths)};"
            " give it the layers that it was fitted on"
        )
    weights = form.weights / _find_divisors(form, rows)[:, np.newaxis]
    mean = np.zeros(head.n_features) if form.mean is None else form.mean
    cuts = np.cumsum(widths)[:-1]
    own = zip(parts, np.split(weights, cuts), np.split(mean, cuts), strict=True)
    maps = [part.spread(w, m, form.bias / len(parts)) for part, w, m in own]
    if head.task == CLASSIFICATION and len(head.classes) == 2:
        differences = [one[..., 1] - one[..., 0] for one in maps]
        maps = [np.stack([-one, one], axis=-1) for one in differences]
    return maps


def _find_divisors(form: LinearForm, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return what the head's scaling divides each feature by, of a row in its parts."""
    whole = np.concatenate(rows)
    if form.std is not None:
        return form.std
    if form.scale == "l2":
        return np.full(len(whole), _find_length(whole))
    if form.scale == "layer":
        return np.concatenate([np.full(len(row), _find_length(row)) for row in rows])
    return np.ones(len(whole))


def _find_length(row: NDArray[np.float64]) -> float:
    """Return a row's length, and 1 for zeros, which stay zeros."""
    return float(np.linalg.norm(row)) or 1.0
