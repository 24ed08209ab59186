"""The program of a plan's layers, built and compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permafrost.pipeline.forward.parity import note_parity
from permafrost.pipeline.forward.verdicts import Verdicts
from permafrost.pipeline.forward.views import choose_view, run_views, turn_batch
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.missing import ExtractionPlan
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.engines.program import HalvingProgram, ProgramSpec
from permafrost.stages.engines.registry import BUILDERS

# The last program that was built, so that transforming images one by one builds it once.
_built: dict[tuple[str | None, ...], HalvingProgram] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanProgram:
    """Gives all active layers of a plan: the images themselves, and what a network makes of them.

    Attributes
    ----------
    plan : ExtractionPlan
    spec : ProgramSpec
        What the network computes of a view: all its layers that are missing of any.
    network : HalvingProgram, optional
        Its program; none where nothing but images is missing.
    """

    plan: ExtractionPlan
    spec: ProgramSpec
    network: HalvingProgram | None

    @property
    def n_at_once(self) -> int:
        """How many batches it may be called with at once."""
        return self.network.n_at_once if self.network else 1

    def __call__(self, batch: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Run a batch of uint8; return the values of each layer, (n, *shape).

        Views that none of `rows` of the plan lacks are left out, and of the network NaN.
        """
        plan = self.plan
        lacking = {
            view: rows is None or bool(mask[rows].any()) for view, mask in plan.lacking.items()
        }
        activations = iter(
            run_views(self.network, batch, plan.of_network, self.spec, lacking=lacking)
            if self.network
            else ()
        )
        return [
            turn_batch(batch, layer.view) if layer.spec.is_pixels else next(activations)
            for layer in plan.active
        ]


def build_program(
    features: FeatureOptions, prepared: Preparation, verdicts: Verdicts
) -> PlanProgram:
    """Build the program of the layers that a plan misses.

    This imports the engine, unless nothing but images is missing.
    """
    active = prepared.plan.of_network
    spec = ProgramSpec(
        layers=tuple(dict.fromkeys(layer.spec.without_view for layer in active)),
        preprocess=prepared.backbone.preprocess if active else "none",
        view=choose_view(active),
        precision=features.precision,
    )
    network = _build_network(features, prepared, spec, verdicts) if active else None
    return PlanProgram(plan=prepared.plan, spec=spec, network=network)


def forget_program() -> None:
    """Let go of the program that was built last: it may take a gigabyte."""
    _built.clear()


def _build_network(
    features: FeatureOptions, prepared: Preparation, spec: ProgramSpec, verdicts: Verdicts
) -> HalvingProgram:
    """Build what the network computes; the last is kept, for the same layers and numbers."""
    work = verdicts.describe_work(features, prepared, spec)
    key = (work.way, *(layer.features.key for layer in prepared.plan.of_network))
    if key not in _built:
        forget_program()  # Before there is another.
        if work.keep:  # Then the network may not be loaded, and not be checked by that.
            prepared.backbone.check_files()
        _built[key] = BUILDERS[features.engine](prepared.backbone.load, spec, work)
    note_parity(features, prepared, _built[key], spec)
    return _built[key]
