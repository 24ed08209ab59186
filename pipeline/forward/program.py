"""The program of a plan's layers, built and compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permafrost.pipeline.forward.parity import note_parity
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.engines.program import HalvingProgram, ProgramSpec
from permafrost.stages.engines.registry import BUILDERS

# The last program that was built, so that transforming images one by one builds it once.
_built: dict[tuple[str, ...], HalvingProgram] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanProgram:
    """Gives all active layers of a plan: the images themselves, and what a network makes of them.

    Attributes
    ----------
    layers : tuple of LayerSpec
    view : str
        Of the images; the network's program sees to its own.
    network : HalvingProgram, optional
        Gives those layers, in this order, that are not the images themselves.
    """

    layers: tuple[LayerSpec, ...]
    view: str
    network: HalvingProgram | None

    @property
    def n_at_once(self) -> int:
        """How many batches it may be called with at once."""
        return self.network.n_at_once if self.network else 1

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run a batch of uint8; return the values of each layer, (n, *shape)."""
        activations = iter(self.network(batch) if self.network else ())
        images = batch[:, :, ::-1] if self.view == "hflip" else batch
        return [images if layer.is_pixels else next(activations) for layer in self.layers]


def build_program(features: FeatureOptions, prepared: Preparation) -> PlanProgram:
    """Build the program of the layers that a plan misses.

    This imports the engine, unless nothing but images is missing.
    """
    return PlanProgram(
        layers=tuple(layer.spec for layer in prepared.plan.active),
        view=features.view,
        network=_build_network(features, prepared) if prepared.plan.of_network else None,
    )


def _build_network(features: FeatureOptions, prepared: Preparation) -> HalvingProgram:
    """Build what the network computes; the last is kept, for the same layers and numbers."""
    active = prepared.plan.of_network
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
