"""The loss of a linear model, and its gradient, over rows that need not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.heads.estimators import EstimatorHead, apply_link
from permafrost.stages.heads.fit_rows import Truth
from permafrost.stages.heads.linear import list_parts
from permafrost.stages.matrices.matrix import Rows
from permafrost.stages.matrices.scaling import scale_layers
from permafrost.stages.matrices.stream import Features, RowStream, learn_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Rows, which are scaled and centred as they come, and what is to be said of them.

    Since the bias is not penalised, centring changes nothing but the bias, and shortens the way.

    Attributes
    ----------
    normalised : tuple of int
        Widths of the layers whose part of each row gets the length 1; all in one for ``l2``.
    shares : ndarray of float64, shape (n_rows, 1) or (n_rows, n_outputs)
        What part of an output's loss each row is.
    penalties : ndarray of float64, shape (1,) or (n_outputs,)
        What a squared weight counts against that loss, twice.
    """

    stream: RowStream
    truth: Truth
    normalised: tuple[int, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    link: str
    shares: NDArray[np.float64]
    penalties: NDArray[np.float64]

    @property
    def n_outputs(self) -> int:
        """How many scores a row has: one for two classes, as in scikit-learn."""
        is_multiple = self.link == "softmax" or self.truth.task == MULTILABEL
        return len(self.truth.classes) if is_multiple else 1

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weights of scaled rows, of which the last row is the bias."""
        return self.stream.n_features + 1, self.n_outputs

    def measure(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return loss and gradient of weights, flattened, in one pass over the rows."""
        weights = flat.reshape(self.shape)
        bias = weights[-1]
        slopes = weights[:-1] / self.deviation[:, np.newaxis]
        loss, gradient = 0.0, np.zeros(self.shape)
        blocks = self.stream.batches(np.arange(len(self.stream)), self.stream.block_rows)
        for positions, features in blocks:
            centred = normalise(features, self.normalised) - self.mean
            scores, expected = centred @ slopes + bias, self.expect(positions)
            shares = self.shares[positions]
            loss += float((shares * _measure_losses(scores, expected, self.link)).sum())
            errors = shares * (apply_link(scores, self.link) - expected)
            gradient[:-1] += centred.T @ errors
            gradient[-1] += errors.sum(axis=0)
        gradient[:-1] /= self.deviation[:, np.newaxis]
        penalised = self.penalties * weights[:-1]
        gradient[:-1] += penalised
        return loss + float((penalised * weights[:-1]).sum()) / 2, gradient.ravel()

    def expect(self, positions: Rows) -> NDArray[Any]:
        """Return the outputs sought, shape (m, n_outputs)."""
        values = self.truth.values[positions]
        return values == np.arange(self.n_outputs) if self.link == "softmax" else values


def _measure_losses(
    scores: NDArray[np.float64], expected: NDArray[Any], link: str
) -> NDArray[np.float64]:
    """Return the loss of each row, or of each of its tags, up to what no weight changes."""
    gained = expected * scores
    if link == "softmax":
        top = scores.max(axis=1, keepdims=True)
        total = top + np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        losses: NDArray[np.float64] = total - gained.sum(axis=1, keepdims=True)
    elif link == "sigmoid":
        losses = np.logaddexp(0, scores) - gained
    else:
        losses = np.square(scores) / 2 - gained
    return losses


def pose_problem(
    stream: RowStream, truth: Truth, *, scale: str, c: float = np.inf
) -> tuple[Problem, Any]:
    """Look at every row, and return the loss of weights of scaled rows, and the scaler.

    Parameters
    ----------
    truth : Truth
        Of its rows.
    scale : str
        As in `LogregSettings`.
    c : float
        Inverse strength of the L2 penalty; infinite for none.

    Returns
    -------
    problem : Problem
    columns : StandardScaler
        Fitted on all rows, which were given the length 1 first where `scale` says so.
    """
    n_features = stream.n_features
    widths = {"l2": (n_features,), "layer": stream.matrix.widths}.get(scale, ())
    prepare = partial(normalise, widths=widths)
    columns = learn_columns(stream, np.arange(len(stream)), prepare=prepare)
    links = {
        CLASSIFICATION: "softmax" if len(truth.classes) > 2 else "sigmoid",
        MULTILABEL: "sigmoid",
        REGRESSION: "identity",
    }
    totals = truth.weights.sum(axis=0)
    problem = Problem(
        stream=stream,
        truth=truth,
        normalised=widths,
        mean=columns.mean_,
        deviation=columns.scale_ if scale == "standard" else np.ones_like(columns.mean_),
        link=links[truth.task],
        shares=truth.weights / totals,
        penalties=1 / (c * totals),
    )
    return problem, columns


def make_head(
    kind: str, settings: Any, problem: Problem, columns: Any, estimator: Any
) -> EstimatorHead:
    """Return the head of raw rows, of an estimator of rows as the problem has them.

    Parameters
    ----------
    problem, columns
        What `pose_problem` returned.
    estimator : estimator
        A linear one of scikit-learn's; its bias is changed.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer

    if settings.scale != "standard":
        # The scaler of the head does not centre, as the problem did.
        for part in list_parts(estimator):
            part.intercept_ = part.intercept_ - part.coef_ @ problem.mean
    scalers = {"standard": columns, "l2": Normalizer().fit(columns.mean_[np.newaxis])}
    scaler = scalers.get(settings.scale, "passthrough")
    return EstimatorHead(
        kind=kind,
        settings=settings,
        task=problem.truth.task,
        classes=problem.truth.classes,
        pipeline=Pipeline([("scaler", scaler), ("estimator", estimator)]),
        widths=problem.normalised if settings.scale == "layer" else (),
    )


def normalise(features: Features, widths: tuple[int, ...]) -> Features:
    """Give rows the length 1 in each layer, in place; rows of zeros stay."""
    return scale_layers(features, widths, copy=False) if widths else features
