"""All engines, and how each builds the program of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from permafrost.stages.engines.program import Reference
from permafrost.stages.frameworks.start import find_keras_backend

if TYPE_CHECKING:
    from permafrost.stages.backbones.network import Network
    from permafrost.stages.engines.program import HalvingProgram, ProgramSpec

ENGINES = ("tensorflow", "openvino", "keras")


def open_reference(network: Network, spec: ProgramSpec) -> Reference:
    """Build what other programs are compared with; `name_reference` names it."""
    if find_keras_backend() == "tensorflow":
        from permafrost.stages.engines.tensorflow_engine import Program
        from permafrost.stages.shortcuts.choice import NO_SHORTCUTS

        return Program(network, spec, shortcuts=NO_SHORTCUTS)
    from permafrost.stages.engines.keras_engine import KerasProgram

    return KerasProgram(network, spec, compiled=False)


def _build_tensorflow(network: Network, spec: ProgramSpec, _batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.program import HalvingProgram, SharedPrograms
    from permafrost.stages.engines.tensorflow_engine import Program
    from permafrost.stages.frameworks.start import list_gpus

    devices: list[str | None] = [*list_gpus()] or [None]
    first, *others = devices
    programs = [Program(network, spec, device=first)]
    # The numbers of all of them go into one feature set: all take the same shortcuts.
    shortcuts = programs[0].shortcuts
    programs += [Program(network, spec, shortcuts=shortcuts, device=other) for other in others]
    return HalvingProgram(SharedPrograms(programs), n_at_once=len(programs))


def _build_openvino(network: Network, spec: ProgramSpec, _batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.openvino_engine import OpenVinoProgram
    from permafrost.stages.engines.program import HalvingProgram

    return HalvingProgram(OpenVinoProgram(network, spec), n_at_once=2)


def _build_keras(network: Network, spec: ProgramSpec, batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.keras_engine import KerasProgram
    from permafrost.stages.engines.program import HalvingProgram

    return HalvingProgram(KerasProgram(network, spec, batch_size=batch_size))


BUILDERS: dict[str, Callable[[Network, ProgramSpec, int], HalvingProgram]] = {
    "tensorflow": _build_tensorflow,
    "openvino": _build_openvino,
    "keras": _build_keras,
}


def name_reference() -> str:
    """Say what others are compared with.

    That is TensorFlow where Keras runs on it. A process has one backend of Keras: on another one,
    it is Keras itself, running one operation after the other, without a compiler.
    """
    backend = find_keras_backend()
    return "tensorflow" if backend == "tensorflow" else f"uncompiled keras-{backend}"
