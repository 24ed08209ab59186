"""The ``sgd`` head: `logreg`, or `ridge` of values, on rows that need not fit into memory.

Each step of L-BFGS takes the gradient of the whole loss, summed in float64 over blocks of rows that
are streamed by, so that what is found is the minimum that scikit-learn's LogisticRegression or
Ridge would find. It comes as one of these.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.heads.estimators import EstimatorHead
from permafrost.stages.heads.fit_rows import FitRows, encode_targets, standardise
from permafrost.stages.heads.linear import assemble
from permafrost.stages.heads.loss import Problem, make_head, pose_problem
from permafrost.stages.heads.settings import (
    class_weight_setting,
    count_setting,
    layer_scale_setting,
    positive_setting,
)
from permafrost.stages.matrices.stream import count_least_bytes, leave_for_rows, open_stream

logger = logging.getLogger(__name__)

# Float64 weights, gradients and SciPy's ten pairs of them; moments of columns. Measured.
BYTES_PER_WEIGHT, BYTES_PER_FEATURE = 352, 64
# A product of fewer multiplications is over before a second thread has woken up.
ONE_THREAD_PRODUCTS = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class SgdSettings:
    """Settings of a linear model that is fitted on streamed rows.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty: that of `logreg`, and 1 / alpha of `ridge`.
    epochs : int
        Passes over the training rows after which L-BFGS stops, converged or not.
    tol : float
        Largest entry of the loss's gradient at which L-BFGS stops, as in `LogregSettings`.
    scale, class_weight
        As in `LogregSettings`.
    """

    C: float = positive_setting(1.0)
    epochs: int = count_setting(200)
    tol: float = positive_setting(1e-4)
    scale: str = layer_scale_setting()
    class_weight: str | tuple[tuple[str, float], ...] = class_weight_setting()


def fit_sgd(settings: SgdSettings, rows: FitRows) -> EstimatorHead:
    """Find the weights of `logreg` or `ridge`; there is nothing to draw or to hold out.

    Raises
    ------
    InputError
        There is too little memory, or a row holds NaN or infinity.
    """
    matrix, learnt = rows.matrix, np.sort(rows.train)
    truth = standardise(encode_targets(rows.targets.select(learnt), settings.class_weight))
    n_features = matrix.shape[1]
    n_bytes = leave_for_rows(
        rows.memory_bytes,
        taken_bytes=n_features * (BYTES_PER_WEIGHT * truth.n_outputs + BYTES_PER_FEATURE),
        least_bytes=count_least_bytes(n_features),
        remedy="pool the layer",
    )
    stream = open_stream(matrix, learnt, n_bytes=n_bytes)
    problem, columns = pose_problem(stream, truth, scale=settings.scale, c=settings.C)
    wide = _minimise(problem, settings).T * truth.spread
    estimator = assemble(
        truth.task,
        wide[:, :-1],
        wide[:, -1] + truth.centre,
        classes=truth.classes,
        truth=truth.values,
        c=settings.C,
    )
    return make_head("sgd", settings, problem, columns, estimator)


def _minimise(problem: Problem, settings: SgdSettings) -> NDArray[np.float64]:
    """Return the weights of scaled rows, and last the bias: shape (n_features + 1, n_outputs)."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    # As scikit-learn asks L-BFGS for a logistic regression, so that `tol` means the same.
    options = {
        "gtol": settings.tol,
        "ftol": 64 * np.finfo(np.float64).eps,
        "maxls": 50,
        "maxiter": settings.epochs,
        "maxfun": settings.epochs,
    }
    n_products = problem.stream.block_rows * problem.stream.n_features * problem.n_outputs
    n_threads = 1 if n_products < ONE_THREAD_PRODUCTS else None
    with threadpool_limits(n_threads, user_api="blas"):
        start = np.zeros(problem.shape).ravel()
        found = minimize(problem.measure, start, method="L-BFGS-B", jac=True, options=options)
    if not found.success:
        logger.warning(
            "sgd has not converged after %d passes over the rows (epochs=%d); raise it with"
            " --set epochs=%d, or scale the features",
            *(found.nfev, settings.epochs, settings.epochs * 4),
        )
    weights: NDArray[np.float64] = found.x.reshape(problem.shape)
    return weights
