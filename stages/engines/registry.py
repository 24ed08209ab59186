"""All engines, and how each builds the program of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from permafrost.stages.engines.program import HalvingProgram, Program, ProgramSpec, SharedPrograms
from permafrost.stages.frameworks.start import find_keras_backend, list_gpus

if TYPE_CHECKING:
    from permafrost.stages.backbones.network import Network


def open_reference(network: Network, spec: ProgramSpec) -> Program:
    """Build what other programs are compared with; `name_reference` names it."""
    if find_keras_backend() == "tensorflow":
        from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
        from permafrost.stages.shortcuts.choice import NO_SHORTCUTS

        return TensorFlowProgram(network, spec, shortcuts=NO_SHORTCUTS)
    from permafrost.stages.engines.keras_engine import KerasProgram

    return KerasProgram(network, spec, compiled=False)


def _build_tensorflow(network: Network, spec: ProgramSpec, _batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram

    devices: list[str | None] = [*list_gpus()] or [None]
    first, *others = devices
    build = partial(TensorFlowProgram, network, spec)
    program = build(device=first)
    # The numbers of all of them go into one feature set: all take the same shortcuts.
    same = [build(shortcuts=program.shortcuts, device=other) for other in others]
    return HalvingProgram(SharedPrograms([program, *same]), n_at_once=len(devices))


def _build_openvino(network: Network, spec: ProgramSpec, _batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.openvino_engine import OpenVinoProgram

    return HalvingProgram(OpenVinoProgram(network, spec), n_at_once=2)


def _build_keras(network: Network, spec: ProgramSpec, batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.keras_engine import KerasProgram

    return HalvingProgram(KerasProgram(network, spec, batch_size=batch_size))


BUILDERS: dict[str, Callable[[Network, ProgramSpec, int], HalvingProgram]] = {
    "tensorflow": _build_tensorflow,
    "openvino": _build_openvino,
    "keras": _build_keras,
}
ENGINES = tuple(BUILDERS)


def name_reference() -> str:
    """Say what others are compared with.

    That is TensorFlow where Keras runs on it. A process has one backend of Keras: on another one,
    it is Keras itself, running one operation after the other, without a compiler.
    """
    backend = find_keras_backend()
    return "tensorflow" if backend == "tensorflow" else f"uncompiled keras-{backend}"
