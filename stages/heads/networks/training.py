"""The loop that trains a Keras network on a stream of rows.

It is our own because of small fits, of which a sweep has dozens: Keras's Model.fit spends more time
on the way to a step than in it. And because a killed fit goes on at the epoch where it was.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.errors import InputError
from permafrost.stages.heads.fit_rows import Checkpoint, Epoch, State, Truth
from permafrost.stages.heads.networks.network import make_optimizer
from permafrost.stages.heads.networks.state import Progress, count_epochs, pack, unpack
from permafrost.stages.matrices.matrix import Rows
from permafrost.stages.matrices.stream import RowStream

# Keeping the state takes at most this share of the time.
_KEEPING_SHARE = 0.1
# How often a long training says where it is.
_TELL_S = 5.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a network is trained.

    Attributes
    ----------
    kind : str
        The head's, for messages.
    settings : dataclass
        The head's: its learning rate, epochs, rows a step, and so on.
    rates : sequence of float
        What the learning rate of each trainable variable is multiplied with; 0 is not trained.
    warmup_rates : sequence of float
        Likewise, in the first epochs.
    warmup : int
        How many those are.
    augment : callable, optional
        Changes a batch of features at random, each time anew; its `variables` are its seeds.
    """

    kind: str
    settings: Any
    rates: Sequence[float]
    warmup_rates: Sequence[float] = ()
    warmup: int = 0
    augment: Any = None

    def find_rates(self, epoch: int) -> Sequence[float]:
        """Return the rates in an epoch, counted from 0."""
        return self.warmup_rates if epoch < self.warmup else self.rates

    @property
    def starts(self) -> tuple[int, ...]:
        """The epochs at which training begins, with an optimizer that knows nothing."""
        return (0, self.warmup) if self.warmup else (0,)


def train_network(
    network: Any, lesson: Lesson, course: Course, *, seed: int, checkpoint: Checkpoint | None = None
) -> tuple[Epoch, ...]:
    """Step through epochs while the loss on the rows held out falls, and go back to the lowest.

    Parameters
    ----------
    network : keras.Model
        Its weights are changed.
    seed : int
        Of the order of the rows.
    checkpoint : Checkpoint, optional
        Has what a killed fit had come to; gets what this one comes to.

    Returns
    -------
    tuple of Epoch
        Those of the killed fit included.

    Raises
    ------
    InputError
        The loss is not finite any more.
    """
    state = checkpoint.load() if checkpoint else None
    run = _Run(network, lesson, course, seed=seed)
    run.begin(count_epochs(state), state)
    kept_s, took_s = time.monotonic(), 0.0
    told_s = kept_s
    while not run.is_over:
        if len(run.progress.epochs) in course.starts[1:]:
            run.begin(len(run.progress.epochs))
        run.pass_once()
        now_s = time.monotonic()
        if checkpoint and now_s - told_s >= _TELL_S:
            checkpoint.tell(_describe(course, run.progress.epochs[-1]))
            told_s = now_s
        if checkpoint and took_s <= _KEEPING_SHARE * (now_s - kept_s):
            checkpoint.keep(run.pack())
            kept_s = time.monotonic()
            took_s = kept_s - now_s
    run.restore_best()
    return tuple(run.progress.epochs)


def _describe(course: Course, epoch: Epoch) -> str:
    figures = {
        "loss": epoch.loss,
        "accuracy": epoch.accuracy,
        "held-out loss": epoch.held_out_loss,
        "held-out accuracy": epoch.held_out_accuracy,
    }
    known = (f"{name} {value:.4f}" for name, value in figures.items() if not np.isnan(value))
    return f"{course.kind}: epoch {epoch.number} of {course.settings.epochs}, {', '.join(known)}"


class _Run:
    """One training of one network: how far it is, and its steps."""

    def __init__(self, network: Any, lesson: Lesson, course: Course, *, seed: int) -> None:
        self._network, self._lesson, self._course, self._seed = network, lesson, course, seed
        self._trained = network.trainable_variables
        self.progress = Progress(epochs=[], best=[])

    def begin(self, epoch: int, state: State | None = None) -> None:
        """Get ready to train from an epoch on, with what was kept after the one before it."""
        # Kept before a new phase began, it is of the optimizer of the phase before.
        started = max(0, epoch - 1) if state else epoch
        self._optimizer = self._make_optimizer(started)
        if state is not None:
            known = unpack(state, self._variables, n_best=len(self._trained))
            if known is None:
                self.begin(0)
                return
            self.progress = known
        rates = self._course.find_rates(started)
        self._step, self._watch = _trace(
            self._network, self._optimizer, rates, self._lesson.truth, augment=self._course.augment
        )

    def _make_optimizer(self, epoch: int) -> Any:
        """Return the optimizer of what begins at or before an epoch, and goes on to the end."""
        settings = self._course.settings
        start = max(one for one in self._course.starts if one <= epoch)
        steps = -(-len(self._lesson.kept) // settings.batch_size)
        n_steps = steps * (settings.epochs - start)
        return make_optimizer(settings, self._trained, n_steps=n_steps)

    @property
    def _variables(self) -> list[Any]:
        """All that the next step depends on: weights, seeds, and what the optimizer remembers."""
        random = self._course.augment.variables if self._course.augment else []
        return [*self._network.variables, *random, *self._optimizer.variables]

    def pack(self) -> State:
        """Return what `begin` goes on from."""
        return pack(self.progress, self._variables)

    @property
    def is_over(self) -> bool:
        """Whether all epochs have passed, or the last ones were in vain."""
        n_done, settings = len(self.progress.epochs), self._course.settings
        is_watched = len(self._lesson.held_out) and n_done
        in_vain = is_watched and n_done - self.progress.best_epoch >= settings.patience
        return n_done >= settings.epochs or bool(in_vain)

    def pass_once(self) -> None:
        """Train on every row once, and look at the rows held out."""
        started_s = time.monotonic()
        settings, lesson, progress = self._course.settings, self._lesson, self.progress
        rng = np.random.default_rng([self._seed, len(progress.epochs)])
        batches = lesson.batches(lesson.kept, settings.batch_size, rng=rng)
        losses, n_right = np.array([self._step(*batch) for batch in batches], np.float64).T
        if not np.isfinite(losses).all():
            raise InputError(
                f"{self._course.kind} diverged with learning_rate={settings.learning_rate}: give a"
                f" lower one, with --set learning_rate={settings.learning_rate / 10:g}"
            )
        watched = self._look()
        figures = float(losses.mean()), float(n_right.sum()) / len(lesson.kept)
        number = len(progress.epochs) + 1
        progress.epochs.append(Epoch(number, *figures, *watched, time.monotonic() - started_s))
        if watched[0] < progress.best_loss:
            progress.best = [variable.numpy() for variable in self._trained]
            progress.best_loss, progress.best_epoch = watched[0], number

    def _look(self) -> tuple[float, float]:
        """Return loss and accuracy on the rows held out."""
        lesson, n_rows = self._lesson, len(self._lesson.held_out)
        if not n_rows:
            return float("nan"), float("nan")
        batches = lesson.batches(lesson.held_out, self._course.settings.batch_size)
        found = [(len(batch[0]), *self._watch(*batch)) for batch in batches]
        loss = sum(n * float(loss) for n, loss, _ in found) / n_rows
        return loss, sum(float(n_right) for _, _, n_right in found) / n_rows

    def restore_best(self) -> None:
        """Go back to the weights with the lowest loss, where rows are held out."""
        for variable, value in zip(self._trained, self.progress.best, strict=False):
            variable.assign(value)


def _trace(
    network: Any, optimizer: Any, rates: Sequence[float], truth: Truth, *, augment: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return functions of a batch: one step, and a look; each traced once for all sizes.

    Both give the mean loss, and how many rows are right; NaN where there are no classes.
    """
    import keras
    import tensorflow as tf

    losses = {
        CLASSIFICATION: lambda y, p: keras.ops.sparse_categorical_crossentropy(y, p)[:, None],
        MULTILABEL: keras.ops.binary_crossentropy,
        REGRESSION: lambda y, p: keras.ops.square(y - p),
    }
    pairs = zip(network.trainable_variables, rates, strict=True)
    trained = [(variable, rate) for variable, rate in pairs if rate]

    def measure(features: Any, values: Any, weights: Any, *, training: bool) -> tuple[Any, Any]:
        outputs = network(features, training=training)
        n_right = tf.constant(float("nan"))
        if truth.task == CLASSIFICATION:
            is_right = tf.equal(tf.argmax(outputs, axis=1), values[:, 0])
            n_right = tf.reduce_sum(tf.cast(is_right, tf.float32))
        return tf.reduce_mean(weights * losses[truth.task](values, outputs)), n_right

    def step(features: Any, values: Any, weights: Any) -> Any:
        seen = augment(features, training=True) if augment else features
        with tf.GradientTape() as tape:
            loss, n_right = measure(seen, values, weights, training=True)
        gradients = tape.gradient(loss, [variable for variable, _ in trained])
        pace = optimizer.learning_rate
        # Not by `apply`: it sums gradients over devices, even over one, by a custom gradient that
        # TensorFlow never lets go, and the weights with it.
        for gradient, (variable, rate) in zip(gradients, trained, strict=True):
            if gradient is not None:  # As of DINOv2's mask, which no output depends on.
                optimizer.update_step(gradient, variable, pace * rate)
        optimizer.iterations.assign_add(1)
        return tf.stack([loss, n_right])

    def watch(features: Any, values: Any, weights: Any) -> Any:
        return tf.stack(measure(features, values, weights, training=False))

    signature = [
        tf.TensorSpec((None, network.input_shape[1]), tf.float32),
        tf.TensorSpec((None, truth.values.shape[1]), truth.values.dtype),
        tf.TensorSpec((None, truth.weights.shape[1]), tf.float32),
    ]
    # XLA takes longer to compile a head than most heads take to train. Concrete functions, because
    # TensorFlow takes one such function for each of many fits for a mistake, and warns.
    trace = functools.partial(tf.function, input_signature=signature, autograph=False)
    return trace(step).get_concrete_function(), trace(watch).get_concrete_function()
