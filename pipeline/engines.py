"""Which engine runs a plan's program, and its check against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.options import FeatureOptions
from pipeline.parity import is_reference, note_parity
from pipeline.prepare import Preparation

if TYPE_CHECKING:
    from stages.engine import HalvingProgram, ProgramSpec
    from stages.network import Network
    from stages.parity import Run


def build_program(features: FeatureOptions, prepared: Preparation) -> HalvingProgram:
    """Build the program of the layers that a plan misses; this imports the engine.

    Parameters
    ----------
    features : FeatureOptions
    prepared : Preparation

    Returns
    -------
    HalvingProgram
        A uint8 batch in, the activations of each active layer out.
    """
    from stages.engine import HalvingProgram, Program, ProgramSpec

    network = prepared.backbone.load()
    spec = ProgramSpec(
        layers=tuple(layer.spec for layer in prepared.plan.active),
        preprocess=prepared.backbone.preprocess,
        view=features.view,
        precision=features.precision,
    )
    program = HalvingProgram(_BUILDERS[features.engine](network, spec))
    if not is_reference(features):
        plain = replace(spec, precision="float32")
        note_parity(features, prepared, program, open_reference=lambda: Program(network, plain))
    return program


def _build_tensorflow(network: Network, spec: ProgramSpec) -> Run:
    from stages.engine import Program

    return Program(network, spec)


def _build_openvino(network: Network, spec: ProgramSpec) -> Run:
    from stages.openvino_engine import OpenVinoProgram

    return OpenVinoProgram(network, spec)


_BUILDERS: dict[str, Callable[[Network, ProgramSpec], Run]] = {
    "tensorflow": _build_tensorflow,
    "openvino": _build_openvino,
}
