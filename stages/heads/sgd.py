"""The ``sgd`` head: `logreg`, or `ridge` of values, on rows that need not fit into memory.

Small batches of shuffled rows are stepped through at a constant rate, and the weights of the
second half of the steps are averaged (Polyak and Juditsky, "Acceleration of stochastic
approximation by averaging", 1992; at constant rates: Bach and Moulines, "Non-strongly-convex smooth
stochastic approximation with convergence rate O(1/n)", 2013). The loop is our own because
scikit-learn's SGDClassifier knows no softmax, which on its digits costs 0.1 of log loss, and takes
ten times as long; what comes out of it is scikit-learn's LogisticRegression or Ridge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.estimators import EstimatorHead, apply_link
from permafrost.stages.heads.linear import join_taggers, parse_positive
from permafrost.stages.heads.settings import class_weight_setting, scale_setting, setting, whole
from permafrost.stages.heads.truth import Truth, encode_targets, standardise
from permafrost.stages.matrices.matrix import Matrix, Rows
from permafrost.stages.matrices.stream import (
    Features,
    RowStream,
    learn_columns,
    leave_for_rows,
    open_stream,
)

# The most that the second derivative of the loss by the score can be.
CURVATURES = {"softmax": 0.5, "sigmoid": 0.25, "identity": 1.0}
# The largest eigenvalue of the covariance is taken from so many rows. Fewer err upwards: safely.
SAMPLE_ROWS = 512
# Float32 weights, their average, gradient and step, and the float64 result; moments of columns.
BYTES_PER_WEIGHT, BYTES_PER_FEATURE = 40, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SgdSettings:
    """Settings of a linear model that is fitted by stochastic gradient descent.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty: that of `logreg`, and 1 / alpha of `ridge`.
    epochs : int
        Passes over the training rows. The more rows, the fewer are needed.
    batch_size : int
        Rows a step. Twice as many are done with sooner, and come less far.
    scale, class_weight
        As in `LogregSettings`.
    """

    C: float = setting(1.0, parse_positive, "a number above 0")
    epochs: int = setting(50, whole(1), "a whole number from 1 on")
    batch_size: int = setting(16, whole(1), "a whole number from 1 on")
    scale: str = scale_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Rows, which are scaled and centred as they come, and what is to be said of them.

    Since the bias is not penalised, centring changes nothing but the bias, and shortens the way.
    """

    stream: RowStream
    truth: Truth
    normalises: bool
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    link: str

    @property
    def n_outputs(self) -> int:
        """How many scores a row has: one for two classes, as in scikit-learn."""
        is_multiple = self.link == "softmax" or self.truth.task == MULTILABEL
        return len(self.truth.classes) if is_multiple else 1

    def batches(
        self, positions: Rows, n_rows: int, *, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[Rows, Features]]:
        """Yield what `RowStream.batches` does, but scaled."""
        for taken, features in self.stream.batches(positions, n_rows, rng=rng):
            scaled = _normalise(features) if self.normalises else features
            scaled -= self.mean
            scaled /= self.deviation
            yield taken, scaled

    def expect(self, positions: Rows) -> NDArray[np.float32]:
        """Return the outputs sought, shape (m, n_outputs)."""
        values = self.truth.values[positions]
        if self.link == "softmax":
            values = values == np.arange(self.n_outputs)
        return values.astype(np.float32)


def fit_sgd(  # noqa: PLR0913
    settings: SgdSettings,
    matrix: Matrix,
    targets: Targets,
    *,
    train: Rows,
    seed: int,
    memory_bytes: int,
) -> EstimatorHead:
    """Come near the weights of `logreg` or `ridge`; the same `seed` gives the same ones.

    Parameters
    ----------
    settings : SgdSettings
    matrix : Matrix
    targets : Targets
        Of all rows of `matrix`.
    train : ndarray of int64
        The rows that are learnt from.
    seed : int
    memory_bytes : int
        What rows and weights may take.

    Raises
    ------
    InputError
        There is too little memory, a row holds NaN or infinity, or the fit diverges.
    """
    rows = np.sort(train)
    truth = standardise(encode_targets(targets.select(rows), settings.class_weight))
    n_features = matrix.shape[1]
    n_bytes = leave_for_rows(
        memory_bytes,
        taken_bytes=n_features * (BYTES_PER_WEIGHT * truth.n_outputs + BYTES_PER_FEATURE),
        least_bytes=16 * n_features * settings.batch_size,
        remedy="pool the layer",
    )
    stream = open_stream(matrix, rows, n_bytes=n_bytes)
    columns = learn_columns(
        stream,
        np.arange(len(stream)),
        prepare=_normalise if settings.scale == "l2" else None,
    )
    problem = _pose(settings, stream, truth, columns)
    weights = _descend(problem, settings, seed=seed)
    return _make_head(settings, problem, columns, weights=weights)


def _pose(settings: SgdSettings, stream: RowStream, truth: Truth, columns: Any) -> _Problem:
    links = {
        CLASSIFICATION: "softmax" if len(truth.classes) > 2 else "sigmoid",
        MULTILABEL: "sigmoid",
        REGRESSION: "identity",
    }
    is_standard = settings.scale == "standard"
    deviation = columns.scale_ if is_standard else np.ones_like(columns.mean_)
    return _Problem(
        stream=stream,
        truth=truth,
        normalises=settings.scale == "l2",
        mean=columns.mean_.astype(np.float32),
        deviation=deviation.astype(np.float32),
        link=links[truth.task],
    )


def _normalise(features: Features) -> Features:
    """Give rows the length 1, in place; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(norms == 0, 1, norms)
    return features


def _descend(problem: _Problem, settings: SgdSettings, *, seed: int) -> NDArray[np.float32]:
    """Return the weights of scaled rows, and last the bias: shape (n_features + 1, n_outputs)."""
    from threadpoolctl import threadpool_limits

    everything = np.arange(len(problem.stream))
    weights = np.zeros((problem.stream.n_features + 1, problem.n_outputs), np.float32)
    average = np.zeros_like(weights)
    n_averaged = 0
    # One step is over before a second thread has woken up.
    with threadpool_limits(1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
        rates = _choose_rates(problem, settings, seed=seed)
        for epoch in range(settings.epochs):
            rng = np.random.default_rng([seed, epoch])
            for batch in problem.batches(everything, settings.batch_size, rng=rng):
                _step(problem, weights, batch, rates)
                if epoch >= settings.epochs // 2:
                    n_averaged += 1
                    average += (weights - average) / n_averaged
            if not np.isfinite(weights).all():
                raise InputError(
                    f"sgd diverged with batch_size={settings.batch_size} and"
                    f" scale={settings.scale}: some rows are far longer than the others; give"
                    " --set scale=l2, or fit them with another head"
                )
    return average


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """How far one row takes the weights and the bias, and how much of the weights it takes away."""

    weights: float
    bias: float
    decay: float


def _choose_rates(problem: _Problem, settings: SgdSettings, *, seed: int) -> _Rates:
    """Return the rates at which steps of a batch still converge.

    Their bound is the curvature that a batch of m rows sees: of the mean loss, plus 1 / m of that
    of one row (Jain et al., "Parallelizing stochastic gradient descent for least squares
    regression", 2018).
    """
    stream, m = problem.stream, settings.batch_size
    n_sample = max(1, min(SAMPLE_ROWS, len(stream), stream.n_bytes // (32 * stream.n_features)))
    sample = np.random.default_rng(seed).choice(len(stream), n_sample, replace=False)
    batches = problem.batches(np.sort(sample), n_sample)
    features = np.concatenate([features for _, features in batches])
    products = features @ features.T
    covariance = float(np.linalg.norm(products, 2)) / n_sample or 1.0  # 0: all rows are the same
    length = _find_longest(problem) if problem.link == "identity" else products.trace() / n_sample
    loss = CURVATURES[problem.link] * float(problem.truth.weights.mean(axis=0).max())
    penalty = 1 / (settings.C * len(stream))
    # The bias is the weight of one more feature, to which we give the variance `covariance`.
    rate = 1 / (m * (loss * (covariance + (length + covariance) / m) + penalty))
    return _Rates(weights=rate, bias=rate * covariance, decay=rate * penalty)


def _find_longest(problem: _Problem) -> float:
    """Return the largest squared length of a row: where the loss is a square, it may diverge."""
    batches = problem.batches(np.arange(len(problem.stream)), problem.stream.block_rows)
    return max(float(np.einsum("ij,ij->i", features, features).max()) for _, features in batches)


def _step(
    problem: _Problem,
    weights: NDArray[np.float32],
    batch: tuple[Rows, Features],
    rates: _Rates,
) -> None:
    positions, features = batch
    outputs = apply_link(features @ weights[:-1] + weights[-1], problem.link)
    errors = (outputs - problem.expect(positions)) * problem.truth.weights[positions]
    weights[:-1] *= np.float32(1 - rates.decay * len(positions))
    weights[:-1] -= features.T @ (np.float32(rates.weights) * errors)
    weights[-1] -= np.float32(rates.bias) * errors.sum(axis=0)


def _make_head(
    settings: SgdSettings, problem: _Problem, columns: Any, *, weights: NDArray[np.float32]
) -> EstimatorHead:
    """Write the weights into scikit-learn's estimator of such weights, and the scaler before it."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer

    truth = problem.truth
    wide = weights.T.astype(np.float64) * truth.spread
    coefficients, bias = wide[:, :-1], wide[:, -1] + truth.centre
    if settings.scale != "standard":
        bias -= coefficients @ problem.mean
    fit = {CLASSIFICATION: _make_classifier, MULTILABEL: _make_tagger, REGRESSION: _make_regressor}
    scalers = {
        "standard": columns,
        "l2": Normalizer().fit(columns.mean_[np.newaxis]),
        "none": "passthrough",
    }
    estimator = fit[truth.task](settings, truth, coefficients, bias)
    return EstimatorHead(
        kind="sgd",
        settings=settings,
        task=truth.task,
        classes=truth.classes,
        pipeline=Pipeline([("scaler", scalers[settings.scale]), ("estimator", estimator)]),
    )


def _make_classifier(settings: SgdSettings, truth: Truth, coefficients: Any, bias: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _set_weights(LogisticRegression(C=settings.C), coefficients, bias, classes=truth.classes)


def _make_tagger(settings: SgdSettings, truth: Truth, coefficients: Any, bias: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    taggers = [
        _set_weights(
            LogisticRegression(C=settings.C),
            coefficients[i : i + 1],
            bias[i : i + 1],
            classes=np.array([False, True]),
        )
        for i in range(truth.n_outputs)
    ]
    return join_taggers(taggers, truth.values)


def _make_regressor(settings: SgdSettings, truth: Truth, coefficients: Any, bias: Any) -> Any:
    from sklearn.linear_model import Ridge

    return _set_weights(Ridge(alpha=1 / settings.C), coefficients[0], bias[0])


def _set_weights(estimator: Any, coefficients: Any, bias: Any, *, classes: Any = None) -> Any:
    estimator.coef_, estimator.intercept_ = coefficients, bias
    estimator.n_features_in_ = coefficients.shape[-1]
    if classes is not None:
        estimator.classes_ = classes
    return estimator
