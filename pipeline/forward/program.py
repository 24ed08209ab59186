"""The program of a plan's layers, built and compared with the reference."""

from __future__ import annotations

from permafrost.pipeline.forward.parity import note_parity
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.engines.program import HalvingProgram, ProgramSpec
from permafrost.stages.engines.registry import BUILDERS

# The last program that was built, so that transforming images one by one builds it once.
_built: dict[tuple[str, ...], HalvingProgram] = {}


def build_program(features: FeatureOptions, prepared: Preparation) -> HalvingProgram:
    """Build the program of the layers that a plan misses; this imports the engine.

    The last one is kept, and given again for the same layers of the same numbers.

    Returns
    -------
    HalvingProgram
        A uint8 batch in, the activations of each active layer out.
    """
    active = prepared.plan.active
    spec = ProgramSpec(
        layers=tuple(layer.spec for layer in active),
        preprocess=prepared.backbone.preprocess,
        view=features.view,
        precision=features.precision,
    )
    # A program that serves one size of batch serves the sample for the parity record as well.
    batch_size = min(prepared.fitting.batch_size, len(prepared.plan.digests))
    key = tuple(layer.features.key for layer in active)
    if key not in _built:
        _built.clear()  # Before there is another: each may take a gigabyte.
        network = prepared.backbone.load()
        _built[key] = BUILDERS[features.engine](network, spec, batch_size)
    note_parity(features, prepared, _built[key], spec)
    return _built[key]
