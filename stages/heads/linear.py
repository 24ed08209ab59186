"""The linear heads ``logreg``, ``linear_svm`` and ``ridge``, fitted by scikit-learn.

All three see their rows only through inner products, so a fit on rows that were rotated is the
same fit. Several tags are as many fits of one tag against the rest.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.settings import (
    ClassWeights,
    class_weight_setting,
    count_setting,
    find_class_weights,
    layer_scale_setting,
    positive_setting,
)
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.reduction import ScaledRows, scale_rows

logger = logging.getLogger(__name__)

# One step over less than this is over before a second thread has woken up: 800 × 1024 values take
# 0.003 s with one thread and 0.02 to 0.04 s with two, on a machine with two cores. Where others are
# at work there too, ridge takes 2.4 s instead of 0.15 s: one thread waits for the other.
ONE_THREAD_BYTES = 64 * 2**20
# Up to so many rows a column, the dual problem is solved sooner and to 1e-5, where the primal
# one stops up to 0.25 away from the weights sought. Reduced rows have a column a row, or fewer.
DUAL_ROWS_PER_COLUMN = 1.25

# What the fits add to each value that they are fitted on, see `HeadKind.fit_bytes`.
LOGREG_BYTES, SVM_BYTES, RIDGE_BYTES = 2, 24, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class LogregSettings:
    """Settings of a logistic regression.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty.
    scale : {"standard", "l2", "none", "layer"}
        Columns to mean 0 and variance 1, rows to length 1, nothing, or what comes from each layer
        to length 1.
    class_weight : "none", "balanced" or tuple of (str, float)
        Every row alike, every class alike, or the weight of some classes; others have 1. The
        weight of a tag is that of the rows that have it.
    max_iter : int
        Most iterations of L-BFGS.
    tol : float
        Largest entry of the loss's gradient at which L-BFGS stops.
    """

    C: float = positive_setting(1.0)
    scale: str = layer_scale_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()
    max_iter: int = count_setting(1000)
    tol: float = positive_setting(1e-4)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSvmSettings(LogregSettings):
    """Settings of a linear support vector machine with the squared hinge loss.

    Those of a logistic regression: iterations and tolerance are liblinear's.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeSettings:
    """Settings of a ridge regression; classes are regressed on +1 and -1, one against the rest.

    Parameters
    ----------
    alpha : float
        Strength of the L2 penalty.
    scale, class_weight
        As in `LogregSettings`; a regression has no classes to weigh.
    """

    alpha: float = positive_setting(1.0)
    scale: str = layer_scale_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


def fit_logreg(
    settings: LogregSettings, values: NDArray[Any], targets: Targets, *, seed: int
) -> Any:
    """Return a fitted LogisticRegression; L-BFGS starts at zero, so `seed` changes nothing."""
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression(
        C=settings.C, max_iter=settings.max_iter, tol=settings.tol, random_state=seed
    )
    return _fit_iterated("logreg", estimator, settings, values, targets)


def fit_linear_svm(
    settings: LinearSvmSettings, values: NDArray[Any], targets: Targets, *, seed: int
) -> Any:
    """Return a fitted LinearSVC."""
    from sklearn.svm import LinearSVC

    estimator = LinearSVC(
        C=settings.C,
        dual=len(values) <= DUAL_ROWS_PER_COLUMN * values.shape[1],
        max_iter=settings.max_iter,
        tol=settings.tol,
        random_state=seed,
    )
    return _fit_iterated("linear_svm", estimator, settings, values, targets)


def fit_ridge(settings: RidgeSettings, values: NDArray[Any], targets: Targets, *, seed: int) -> Any:
    """Return a fitted Ridge or RidgeClassifier; they are solved for, so `seed` changes nothing."""
    from sklearn.linear_model import Ridge, RidgeClassifier

    if targets.task != REGRESSION:
        estimator = RidgeClassifier(alpha=settings.alpha, copy_X=False)
        return _fit_classes(estimator, values, targets, settings.class_weight)
    if settings.class_weight != "none":
        raise InputError("ridge has no classes to weigh in a regression; drop class_weight")
    return _fit(Ridge(alpha=settings.alpha, copy_X=False), values, targets.values)


def fit_standardised(  # noqa: PLR0913
    values: NDArray[Any],
    targets: Targets,
    *,
    c: float,
    class_weight: ClassWeights,
    seed: int,
    memory_bytes: int,
) -> tuple[Any, ScaledRows]:
    """Standardise rows in memory, and fit `logreg` on them, or `ridge` of values with 1 / `c`."""
    every = np.arange(len(values))
    (scaled,) = scale_rows(
        ArrayMatrix(values),
        every,
        scale="standard",
        trains=[every],
        memory_bytes=memory_bytes,
        fit_bytes=RIDGE_BYTES,
    )
    if targets.task == REGRESSION:
        ridge = RidgeSettings(alpha=1 / c, class_weight=class_weight)
        return fit_ridge(ridge, scaled.values, targets, seed=seed), scaled
    logreg = LogregSettings(C=c, class_weight=class_weight)
    return fit_logreg(logreg, scaled.values, targets, seed=seed), scaled


def _fit_iterated(
    kind: str, estimator: Any, settings: LogregSettings, values: NDArray[Any], targets: Targets
) -> Any:
    """Fit, and say once and clearly when the iterations ran out."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = _fit_classes(estimator, values, targets, settings.class_weight)
    if max(np.max(part.n_iter_) for part in list_parts(fitted)) >= settings.max_iter:
        logger.warning(
            "%s has not converged after max_iter=%d iterations; raise it with"
            " --set max_iter=%d, or scale the features",
            *(kind, settings.max_iter, settings.max_iter * 4),
        )
    return fitted


def list_parts(fitted: Any) -> list[Any]:
    """List the estimators, one a tag, of which one for many tags consists, or itself."""
    return list(getattr(fitted, "estimators_", [fitted]))


def _fit_classes(
    estimator: Any, values: NDArray[Any], targets: Targets, weighting: ClassWeights
) -> Any:
    """Fit scikit-learn's classifier on classes, or one for each tag."""
    from sklearn.svm import LinearSVC

    weights = find_class_weights(weighting, targets.classes.tolist())
    default = "balanced" if weighting == "balanced" else None
    if targets.task == MULTILABEL:
        by_tag = [
            {False: 1.0, True: weights[name]} if name in weights else default
            for name in targets.classes.tolist()
        ]
        return _fit_tags(estimator, values, targets.values, by_tag)
    if not weights:
        return _fit(estimator.set_params(class_weight=default), values, targets.values)
    # Not by name: where a class is called 0 or 1, scikit-learn looks for the weight of a number.
    present, codes = np.unique(targets.values, return_inverse=True)
    by_code = np.array([weights.get(name, 1.0) for name in present.tolist()])
    if not isinstance(estimator, LinearSVC):
        return _fit(estimator, values, targets.values, by_code[codes])
    # Liblinear weighs a class where it is told from the rest, and the rest not: not row by row.
    fitted = _fit(estimator.set_params(class_weight=dict(enumerate(by_code))), values, codes)
    fitted.classes_ = present
    return fitted


def _fit_tags(
    estimator: Any, values: NDArray[Any], truth: NDArray[np.bool_], weights: list[Any]
) -> Any:
    """Fit what `OneVsRestClassifier.fit` does, but with weights of each tag's own."""
    from sklearn.base import clone

    taggers = [
        _fit_tag(clone(estimator).set_params(class_weight=weight), values, has_tag)
        for weight, has_tag in zip(weights, truth.T, strict=True)
    ]
    return _join_taggers(taggers, truth)


def _join_taggers(taggers: list[Any], truth: NDArray[Any]) -> Any:
    """Return scikit-learn's OneVsRestClassifier of fitted classifiers, one a tag."""
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import LabelBinarizer

    joined = OneVsRestClassifier(taggers[0])
    joined.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(truth.astype(np.int64))
    joined.n_features_in_ = taggers[0].n_features_in_
    joined.estimators_ = taggers
    return joined


def assemble(  # noqa: PLR0913
    task: str,
    coefficients: NDArray[np.float64],
    bias: NDArray[np.float64],
    *,
    classes: NDArray[np.str_],
    truth: NDArray[Any],
    c: float = 1.0,
) -> Any:
    """Return scikit-learn's estimator as if these weights had been fitted.

    Parameters
    ----------
    task : str
        Of a regression it is a Ridge, else a LogisticRegression, or one for each tag.
    coefficients : ndarray of float64, shape (n_outputs, n_features)
    bias : ndarray of float64, shape (n_outputs,)
    classes : ndarray of str
        Of a classification.
    truth : ndarray of 0 and 1, shape (n_rows, n_tags)
        Of tags.
    c : float
        Inverse strength of the L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    if task == REGRESSION:
        return _set_weights(Ridge(alpha=1 / c), coefficients[0], bias[0])
    if task == MULTILABEL:
        own = np.array([False, True])
        parts = zip(coefficients[:, np.newaxis], bias[:, np.newaxis], strict=True)
        taggers = [_set_weights(LogisticRegression(C=c), *part, classes=own) for part in parts]
        return _join_taggers(taggers, truth)
    return _set_weights(LogisticRegression(C=c), coefficients, bias, classes=classes)


def _set_weights(
    estimator: Any, coefficients: NDArray[Any], bias: Any, *, classes: Any = None
) -> Any:
    estimator.coef_, estimator.intercept_ = coefficients, bias
    estimator.n_features_in_ = coefficients.shape[-1]
    if classes is not None:
        estimator.classes_ = classes
    return estimator


def _fit_tag(estimator: Any, values: NDArray[Any], has_tag: NDArray[np.bool_]) -> Any:
    if has_tag.any() and not has_tag.all():
        return _fit(estimator, values, has_tag)
    # Laplace's rule of succession: what was so n times is so again with odds of n + 1 to 1.
    estimator.fit(np.zeros((2, values.shape[1])), [False, True])
    estimator.intercept_[:] = np.log(len(has_tag) + 1) * (1 if has_tag.all() else -1)
    return estimator


def _fit(
    estimator: Any,
    values: NDArray[Any],
    truth: NDArray[Any],
    weights: NDArray[np.float64] | None = None,
) -> Any:
    from threadpoolctl import threadpool_limits

    if not getattr(estimator, "copy_X", True):
        # Ridge centres rows in place. In float32 its normal equations would lose the weights along
        # all but the strongest directions.
        values = values.astype(np.float64)
    limit = 1 if values.nbytes < ONE_THREAD_BYTES else None
    with threadpool_limits(limit, user_api="blas"):
        return estimator.fit(values, truth, sample_weight=weights)
