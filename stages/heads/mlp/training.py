"""The loop that trains a Keras network on a stream of rows.

It is our own because of small fits, of which a sweep has dozens: Keras's Model.fit spends more time
on the way to a step than in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.errors import InputError
from permafrost.stages.heads.truth import Truth
from permafrost.stages.matrices.matrix import Rows
from permafrost.stages.matrices.stream import RowStream

if TYPE_CHECKING:
    from permafrost.stages.heads.mlp.network import MlpSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a network is trained on, `kept`, and what it is watched on, `held_out`: positions."""

    stream: RowStream
    truth: Truth
    kept: Rows
    held_out: Rows

    def batches(
        self, positions: Rows, n_rows: int, *, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32]]]:
        """Yield features, values and weights."""
        for taken, features in self.stream.batches(positions, n_rows, rng=rng):
            weights = self.truth.weights[taken].astype(np.float32)
            yield features, self.truth.values[taken], weights


def train_network(network: Any, lesson: Lesson, settings: MlpSettings, *, seed: int) -> None:
    """Step through epochs while the loss on the rows held out falls, and go back to the lowest.

    Parameters
    ----------
    network : keras.Sequential
        Its weights are changed.
    lesson : Lesson
    settings : MlpSettings
    seed : int
        Of the order of the rows.

    Raises
    ------
    InputError
        The loss is not finite any more.
    """
    step, watch = _trace(network, settings, lesson.truth)
    variables = network.trainable_variables
    best, best_loss, best_epoch = [], np.inf, 0
    for epoch in range(settings.epochs):
        rng = np.random.default_rng([seed, epoch])
        losses = [
            step(*batch) for batch in lesson.batches(lesson.kept, settings.batch_size, rng=rng)
        ]
        if not np.isfinite(losses).all():
            raise InputError(
                f"mlp diverged with learning_rate={settings.learning_rate}: give a lower one,"
                f" with --set learning_rate={settings.learning_rate / 10:g}"
            )
        if not len(lesson.held_out):
            continue
        batches = lesson.batches(lesson.held_out, settings.batch_size)
        loss = sum(len(batch[0]) * float(watch(*batch)) for batch in batches)
        if loss < best_loss:
            best, best_loss, best_epoch = [v.numpy() for v in variables], loss, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    for variable, value in zip(variables, best, strict=False):
        variable.assign(value)


def _trace(
    network: Any, settings: MlpSettings, truth: Truth
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return functions of a batch: one step, and the loss alone; each traced once for all sizes."""
    import keras
    import tensorflow as tf

    losses = {
        CLASSIFICATION: lambda y, p: keras.ops.sparse_categorical_crossentropy(y, p)[:, None],
        MULTILABEL: keras.ops.binary_crossentropy,
        REGRESSION: lambda y, p: keras.ops.square(y - p),
    }
    variables = network.trainable_variables
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    optimizer.build(variables)

    def measure(features: Any, values: Any, weights: Any, *, training: bool) -> Any:
        outputs = network(features, training=training)
        return tf.reduce_mean(weights * losses[truth.task](values, outputs))

    def step(features: Any, values: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = measure(features, values, weights, training=True)
        # Not by `apply`: it sums gradients over devices, even over one, by a custom gradient that
        # TensorFlow never lets go, and the weights with it.
        for gradient, variable in zip(tape.gradient(loss, variables), variables, strict=True):
            optimizer.update_step(gradient, variable, optimizer.learning_rate)
        optimizer.iterations.assign_add(1)
        return loss

    def watch(features: Any, values: Any, weights: Any) -> Any:
        return measure(features, values, weights, training=False)

    signature = [
        tf.TensorSpec((None, network.input_shape[1]), tf.float32),
        tf.TensorSpec((None, truth.values.shape[1]), truth.values.dtype),
        tf.TensorSpec((None, truth.weights.shape[1]), tf.float32),
    ]
    # XLA takes longer to compile a head than most heads take to train. Concrete functions, because
    # TensorFlow takes one such function for each of many fits for a mistake, and warns.
    trace = functools.partial(tf.function, input_signature=signature, autograph=False)
    return trace(step).get_concrete_function(), trace(watch).get_concrete_function()
