"""A program run by a session of TensorFlow.

Casting, preprocessing, the network and pooling are one TensorFlow graph, run by a session, which
runs only what is fetched: the network ends at the deepest layer asked for. The weights are
variables of the session and not constants of the graph. Constants would be copied by each of a
dozen optimization passes: VGG16 then starts 3 s later and takes 1.7 GB more. Where TensorFlow is to
rewrite the graph in half precision they are constants all the same, or each batch would convert
them anew.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from permafrost.stages.backbones.network import Network
from permafrost.stages.engines.mixed_precision import (
    configure_session,
    find_delicate_products,
    find_needed,
)
from permafrost.stages.engines.program import OutOfMemoryError, ProgramSpec, refuse_run
from permafrost.stages.engines.tracing import trace_program
from permafrost.stages.shortcuts.choice import NO_SHORTCUTS, Shortcuts

_log = logging.getLogger(__name__)

_HELD_DTYPES = ("float32", "bfloat16")
_SMALLEST_VARIABLE_BYTES = 4096
# Bytes of weights that are made constants. No network of keras.applications with batch
# normalization has as many; VGG16's fc1 alone has more.
_FOLDED_BYTES = 400_000_000


class TensorFlowProgram:
    """A `Program` of TensorFlow.

    Parameters
    ----------
    network : Network
    spec : ProgramSpec
    shortcuts : Shortcuts, optional
        None by default.
    device : str, optional
        Where it runs, as ``"/GPU:1"``; TensorFlow's choice by default.
    """

    def __init__(
        self,
        network: Network,
        spec: ProgramSpec,
        *,
        shortcuts: Shortcuts = NO_SHORTCUTS,
        device: str | None = None,
    ) -> None:
        self._session = _Session(network, spec, shortcuts, device)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, see `Program`; another size of batch is not compiled anew."""
        return self._session(batch)

    def close(self) -> None:
        """Release the device memory."""
        self._session.close()


class _Session:
    """A TensorFlow session with a traced program in it."""

    def __init__(
        self, network: Network, spec: ProgramSpec, shortcuts: Shortcuts, device: str | None
    ) -> None:
        import tensorflow as tf

        # What of half precision is not in the graph already is left to TensorFlow.
        is_rewritten = spec.precision != shortcuts.precision
        held = _HeldArrays(fold=is_rewritten)
        traced = trace_program(network, spec, hold=held, shortcuts=shortcuts, device=device)
        config = configure_session(spec.precision if is_rewritten else "float32")
        session = tf.compat.v1.Session(graph=traced.graph, config=config)
        held.fill(session, traced.outputs)
        kept = find_delicate_products(traced.batch, traced.outputs) if is_rewritten else []
        # What is fetched keeps its precision; fetching an operation returns no value.
        self._run = session.make_callable([*traced.outputs, *kept], [traced.batch])
        self._n_outputs = len(traced.outputs)
        self._session = session
        self._out_of_memory = tf.errors.ResourceExhaustedError
        self._refusals = (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = self._run(batch)[: self._n_outputs]
        except (self._out_of_memory, MemoryError) as error:
            raise OutOfMemoryError(f"a batch of {len(batch)} images") from error
        except self._refusals as error:
            raise refuse_run("TensorFlow", error) from error
        return outputs

    def close(self) -> None:
        self._session.close()


class _HeldArrays:
    """Arrays in the graph that is being built: variables, whose values come with the session.

    Parameters
    ----------
    fold : bool
        Make the first `_FOLDED_BYTES` of them constants, for what folding gains.
    """

    def __init__(self, *, fold: bool) -> None:
        self._waiting: list[tuple[Any, Any, np.ndarray]] = []
        self._foldable_bytes = _FOLDED_BYTES if fold else 0

    def __call__(self, values: np.ndarray) -> Any:
        import tensorflow as tf

        if values.dtype.name not in _HELD_DTYPES or values.nbytes < _SMALLEST_VARIABLE_BYTES:
            return tf.constant(values)
        if values.nbytes <= self._foldable_bytes:
            self._foldable_bytes -= values.nbytes
            return tf.constant(values)
        initial = tf.compat.v1.placeholder(values.dtype, values.shape)
        variable = tf.compat.v1.Variable(initial, use_resource=True, trainable=False)
        self._waiting.append((variable, initial, values))
        return variable.read_value()

    def fill(self, session: Any, outputs: list[Any]) -> None:
        """Give the session the values that the outputs need; they are not kept here."""
        needed = find_needed(outputs)
        waiting = [entry for entry in self._waiting if entry[0].handle.op in needed]
        # In one run: each run of its own would optimize the graph again.
        feeds = {initial: values for _, initial, values in waiting}
        session.run([variable.initializer for variable, *_ in waiting], feeds)
        self._waiting.clear()
