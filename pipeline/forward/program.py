"""Which engine runs a plan's program, and its check against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from permafrost.pipeline.forward.parity import Reference, is_reference, note_parity
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.frameworks.start import find_keras_backend

if TYPE_CHECKING:
    from permafrost.stages.backbones.network import Network
    from permafrost.stages.engines.tensorflow_engine import HalvingProgram
    from permafrost.stages.engines.tracing import ProgramSpec


# The last program of this process: who transforms one image after the other builds it once.
_built: dict[tuple[str, ...], HalvingProgram] = {}


def build_program(features: FeatureOptions, prepared: Preparation) -> HalvingProgram:
    """Build the program of the layers that a plan misses; this imports the engine.

    The last one is kept, and given again for the same layers of the same numbers.

    Parameters
    ----------
    features : FeatureOptions
    prepared : Preparation

    Returns
    -------
    HalvingProgram
        A uint8 batch in, the activations of each active layer out.
    """
    from permafrost.stages.engines.tracing import ProgramSpec

    active = prepared.plan.active
    spec = ProgramSpec(
        layers=tuple(layer.spec for layer in active),
        preprocess=prepared.backbone.preprocess,
        view=features.view,
        precision=features.precision,
    )
    # A program that serves one size of batch serves the sample for the parity record as well.
    batch_size = min(prepared.batch_size, len(prepared.plan.digests))
    key = tuple(layer.features.key for layer in active)
    if key not in _built:
        _built.clear()  # Before there is another: each may take a gigabyte.
        network = prepared.backbone.load()
        _built[key] = _BUILDERS[features.engine](network, spec, batch_size)
    program = _built[key]
    if not is_reference(features):
        plain = replace(spec, precision="float32")
        note_parity(
            *(features, prepared, program),
            open_reference=lambda: _open_reference(prepared.backbone.load(), plain),
        )
    return program


def _open_reference(network: Network, spec: ProgramSpec) -> Reference:
    """Build what other programs are compared with; `pipeline.forward.parity.name_reference` names it."""
    if find_keras_backend() == "tensorflow":
        from permafrost.stages.engines.tensorflow_engine import Program
        from permafrost.stages.shortcuts.choice import NO_SHORTCUTS

        return Program(network, spec, shortcuts=NO_SHORTCUTS)
    from permafrost.stages.engines.keras_engine import KerasProgram

    return KerasProgram(network, spec, compiled=False)


def _build_tensorflow(network: Network, spec: ProgramSpec, _batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.tensorflow_engine import (
        HalvingProgram,
        Program,
        SharedPrograms,
    )
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
    from permafrost.stages.engines.tensorflow_engine import HalvingProgram

    return HalvingProgram(OpenVinoProgram(network, spec), n_at_once=2)


def _build_keras(network: Network, spec: ProgramSpec, batch_size: int) -> HalvingProgram:
    from permafrost.stages.engines.keras_engine import KerasProgram
    from permafrost.stages.engines.tensorflow_engine import HalvingProgram

    return HalvingProgram(KerasProgram(network, spec, batch_size=batch_size))


_BUILDERS: dict[str, Callable[[Network, ProgramSpec, int], HalvingProgram]] = {
    "tensorflow": _build_tensorflow,
    "openvino": _build_openvino,
    "keras": _build_keras,
}
