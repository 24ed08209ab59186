"""A linear probe: the last layer of a network begins as the head that fits what it is given.

Fine-tuning from a random last layer distorts the features below it while that layer is learnt; from
a fitted one it does not (Kumar, Raghunathan, Jones, Ma and Liang, Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution, ICLR 2022).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.estimators import read_weights, widen
from permafrost.stages.heads.linear import fit_standardised
from permafrost.stages.heads.networks.training import Lesson
from permafrost.stages.matrices.budget import format_bytes


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
    targets : Targets
        Of the rows of the lesson's stream.
    settings : dataclass
        The head's: its `batch_size`, `class_weight` and `probe_C` count.

    Raises
    ------
    InputError
        What the layer takes of all rows is more than half of the memory.
    """
    columns = _run(body, lesson, batch_size=settings.batch_size, memory_bytes=memory_bytes)
    truth = targets.select(lesson.kept)
    narrow, scaled = fit_standardised(
        columns,
        truth,
        c=settings.probe_C,
        class_weight=settings.class_weight,
        seed=seed,
        memory_bytes=memory_bytes,
    )
    weights, bias = read_weights(widen(narrow, scaled.restore), truth.task)
    weights /= scaled.scaler.scale_[:, np.newaxis]
    bias = bias - scaled.scaler.mean_ @ weights - lesson.truth.centre
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
