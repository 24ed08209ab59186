"""The program of `stages.engines.tensorflow_engine`, run by OpenVINO on the processor.

The same graph, preprocessing and pooling included, converted once. A batch goes through it in
pieces of a few images, as many at a time as OpenVINO has streams: each core then works on images of
its own, with activations that stay in its cache. It may be called with two batches at once, so that
no core waits for the other at the end of one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Semaphore
from typing import Any

import numpy as np

from permafrost.cores import count_cores
from permafrost.stages.backbones.network import Network
from permafrost.stages.engines.openvino_model import PIECE, find_model
from permafrost.stages.engines.program import Keep, ProgramSpec, fill_up, refuse_run
from permafrost.stages.errors import UnknownNameError

# After so long without an answer, a request has failed and not just taken its time.
_PATIENCE_S = 60.0
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoProgram:
    """A `Program` of OpenVINO.

    Parameters
    ----------
    load : callable
        Loads the network; called, and TensorFlow imported, only where no model is kept.
    spec : ProgramSpec
        Of precision ``"float32"`` or ``"bfloat16"``.
    keep : Keep, optional
        For the converted model.
    """

    def __init__(
        self, load: Callable[[], Network], spec: ProgramSpec, keep: Keep | None = None
    ) -> None:
        import openvino

        if spec.precision not in _PRECISIONS:
            raise UnknownNameError("precision", spec.precision, _PRECISIONS, where="of OpenVINO")
        converted = find_model(load, spec, keep)
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[spec.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": count_cores(),
        }
        try:
            compiled = openvino.Core().compile_model(converted.model, "CPU", settings)
        except Exception as error:  # OpenVINO has many, of no common base.
            raise refuse_run("OpenVINO", error) from error
        self._requests = openvino.AsyncInferQueue(compiled)
        self._requests.set_callback(_take_outputs)
        # Converting may change the order of the outputs, as where a network transposes.
        self._places = [
            next(n for n, port in enumerate(compiled.outputs) if name in port.get_names())
            for name in converted.outputs
        ]
        # Two threads that look for a free request at once may be given the same one.
        self._starting = Lock()
        self._shapes = [tuple(compiled.outputs[place].shape)[1:] for place in self._places]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run one batch, see `Program`."""
        outputs = [np.empty((len(batch), *shape), np.float32) for shape in self._shapes]
        done = Semaphore(0)
        starts = range(0, len(batch), PIECE)
        for start in starts:
            piece = batch[start : start + PIECE]
            rows = [output[start : start + PIECE] for output in outputs]
            with self._starting:
                self._requests.start_async({0: fill_up(piece, PIECE)}, (rows, self._places, done))
        for _ in starts:
            while not done.acquire(timeout=_PATIENCE_S):
                self._requests.wait_all()  # Raises what a request failed with.
        return outputs


def _take_outputs(request: Any, piece: tuple[list[np.ndarray], list[int], Semaphore]) -> None:
    rows, places, done = piece
    tensors = request.output_tensors
    for place, taken in zip(places, rows, strict=True):
        taken[:] = tensors[place].data[: len(taken)]
    done.release()
