"""A linear probe: the last layer of a network begins as the head that fits what it is given.

Fine-tuning from a random last layer distorts the features below it while that layer is learnt; from
a fitted one it does not (Kumar, Raghunathan, Jones, Ma and Liang, Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution, ICLR 2022).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.estimators import FittedEstimator
from permafrost.stages.heads.linear import LogregSettings, RidgeSettings, fit_logreg, fit_ridge
from permafrost.stages.heads.networks.training import Lesson
from permafrost.stages.matrices.budget import format_bytes
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.reduction import scale_rows


def fit_last_layer(  # noqa: PLR0913
    body: Any,
    output: Any,
    lesson: Lesson,
    targets: Targets,
    *,
    settings: Any,
    seed: int,
    memory_bytes: int,
) -> None:
    """Give a network's last layer the weights of a logistic regression, or of a ridge of values.

    Parameters
    ----------
    body : keras.Model
        From flat features to what the last layer takes, shape (n, n_columns).
    output : keras.layers.Dense
        The last layer; its weights are set.
    lesson : Lesson
    targets : Targets
        Of the rows of the lesson's stream.
    settings : dataclass
        The head's: its `batch_size`, `class_weight` and `probe_C` count.
    seed : int
    memory_bytes : int

    Raises
    ------
    InputError
        What the layer takes of all rows is more than half of the memory.
    """
    columns = _run(body, lesson, batch_size=settings.batch_size, memory_bytes=memory_bytes)
    rows = np.arange(len(columns))
    truth = targets.select(lesson.kept)
    scaled = next(
        scale_rows(
            ArrayMatrix(columns),
            rows,
            scale="standard",
            trains=[rows],
            memory_bytes=memory_bytes,
            fit_bytes=26,
        )
    )
    is_regression = truth.task == REGRESSION
    own = (
        RidgeSettings(alpha=1 / settings.probe_C)
        if is_regression
        else LogregSettings(C=settings.probe_C, class_weight=settings.class_weight)
    )
    fit: Any = fit_ridge if is_regression else fit_logreg
    fitted = FittedEstimator(
        kind="ridge" if is_regression else "logreg",
        settings=own,
        task=truth.task,
        classes=lesson.truth.classes,
        estimator=fit(own, scaled.values, truth, seed=seed),
    )
    form = fitted.to_head(scaled).linear_form()
    assert form is not None and form.std is not None and form.mean is not None
    weights = form.weights / form.std[:, np.newaxis]
    bias = form.bias - form.mean @ weights - lesson.truth.centre
    output.set_weights([weights / lesson.truth.spread, bias / lesson.truth.spread])


def _run(body: Any, lesson: Lesson, *, batch_size: int, memory_bytes: int) -> NDArray[np.float32]:
    """Return what the body makes of the rows that are learnt from, shape (m, n_columns)."""
    import tensorflow as tf

    n_columns = int(body.output_shape[1])
    needed = 2 * 4 * n_columns * len(lesson.kept)
    if needed > memory_bytes:
        raise InputError(
            f"init=probe fits a linear head on {len(lesson.kept)} rows of {n_columns} values, which"
            f" takes {format_bytes(needed)}; give more --memory, top=avg, or init=random"
        )
    signature = [tf.TensorSpec((None, int(body.input_shape[1])), tf.float32)]
    call = tf.function(lambda rows: body(rows, training=False), signature, autograph=False)
    call = call.get_concrete_function()
    columns = np.empty((len(lesson.kept), n_columns), np.float32)
    for taken, features in lesson.stream.batches(lesson.kept, batch_size):
        columns[np.searchsorted(lesson.kept, taken)] = call(tf.constant(features)).numpy()
    return columns
