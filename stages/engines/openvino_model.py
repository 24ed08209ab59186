"""A program as a model of OpenVINO: converted from TensorFlow's graph, or as it was kept then."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.backbones.network import Network
from permafrost.stages.engines.program import Keep, ProgramSpec, refuse_run
from permafrost.stages.engines.tracing import trace_program
from permafrost.stages.errors import in_one_line
from permafrost.stages.shortcuts.choice import NO_SHORTCUTS
from permafrost.warn import warn_once

_log = logging.getLogger(__name__)

# Measured with MobileNet x0.25 and ResNet50 on two cores: 4 images at a time are as fast as or
# faster than 1, 8 are slower. The shape is fixed, as OpenVINO is faster for it.
PIECE = 4
# Raised when our own code converts otherwise, or packs otherwise what is kept.
_CONVERSION = 1
_LENGTH = np.dtype("<u8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedModel:
    """A model of OpenVINO, and by what names its outputs are the spec's layers, in their order."""

    model: Any
    outputs: list[str]


def describe_conversion() -> dict[str, object]:
    """Return what a converted model depends on besides network and spec; this imports OpenVINO."""
    import openvino

    return {
        "conversion": _CONVERSION,
        "piece": PIECE,
        "openvino": openvino.__version__,
        # They make the graph.
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
    }


def find_model(
    load: Callable[[], Network], spec: ProgramSpec, keep: Keep | None = None
) -> ConvertedModel:
    """Return the model that is kept; else convert the network, and keep that.

    Parameters
    ----------
    load : callable
        Loads the network; called only where nothing is kept.
    spec : ProgramSpec
    keep : Keep, optional
        Of what `describe_conversion` describes, for this network and spec.
    """
    packed = keep.load() if keep else None
    if packed is not None:
        try:
            return unpack_model(packed)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            _log.warning("OpenVINO's model is converted again: %s", in_one_line(str(error)))
    converted = _convert(load(), spec)
    if keep:
        _save(converted, keep)
    return converted


def _convert(network: Network, spec: ProgramSpec) -> ConvertedModel:
    import openvino
    import tensorflow as tf

    traced = trace_program(network, spec, hold=tf.constant, shortcuts=NO_SHORTCUTS)
    outputs = [tensor.name for tensor in traced.outputs]
    try:
        model = openvino.convert_model(traced.graph, input=[traced.batch.name], output=outputs)
        model.reshape([PIECE, *traced.batch.shape[1:]])
    except Exception as error:  # OpenVINO has many, of no common base.
        raise refuse_run("OpenVINO", error) from error
    return ConvertedModel(model=model, outputs=outputs)


def _save(converted: ConvertedModel, keep: Keep) -> None:
    try:
        packed = pack_model(converted)
    except (OSError, RuntimeError) as error:
        warn_once(f"cannot keep OpenVINO's model ({in_one_line(str(error))}), here or in TMPDIR")
        return
    keep.save(packed)


def pack_model(converted: ConvertedModel) -> NDArray[np.uint8]:
    """Return a model as bytes: weights, graph and names of outputs, and the length of the latter.

    Raises
    ------
    OSError, RuntimeError
        There is no room for temporary files, through which alone OpenVINO gives them.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(converted.model, xml, weights)
        told = {"outputs": converted.outputs, "graph": xml.read_text(encoding="utf-8")}
        tail = np.frombuffer(json.dumps(told).encode(), np.uint8)
        length = np.array([len(tail)], _LENGTH).view(np.uint8)
        n_weights = weights.stat().st_size
        packed = np.empty(n_weights + len(tail) + len(length), np.uint8)
        with weights.open("rb") as file:
            if file.readinto(packed[:n_weights].data) != n_weights:
                raise OSError("its weights cannot be read back")
        packed[n_weights:] = np.concatenate([tail, length])
        return packed


def unpack_model(packed: NDArray[np.uint8]) -> ConvertedModel:
    """Return the model that `pack_model` was given.

    Raises
    ------
    RuntimeError, ValueError, LookupError, TypeError
        It is none, or not all of it.
    """
    import openvino

    rest, length = np.split(packed, [-_LENGTH.itemsize])
    weights, tail = np.split(rest, [len(rest) - int(length.view(_LENGTH)[0])])
    told = json.loads(tail.tobytes())
    # The tensor is a copy: the model may use it for as long as it lives.
    model = openvino.Core().read_model(told["graph"], openvino.Tensor(weights))
    return ConvertedModel(model=model, outputs=list(told["outputs"]))
