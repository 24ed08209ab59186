"""Which rows each layer is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.recipe import Recipe
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer of a run.

    Attributes
    ----------
    locations : RowLocations or None
        Where the dataset's rows lay when this was planned, if that was asked.
    missing : ndarray of bool, shape (n_rows,)
        Which of the plan's rows this layer lacks; no longer those that another run adds while
        this one is going.
    """

    spec: LayerSpec
    recipe: Recipe
    row: RowFormat
    features: FeatureSet
    missing: np.ndarray
    locations: RowLocations | None = None

    @property
    def view(self) -> str:
        """The view of the images that it is of."""
        return str(self.recipe["view"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPlan:
    """The work of a run.

    Attributes
    ----------
    digests : Digests
        The different images to compute, in manifest order.
    paths : Texts
        Where each is read: its first row in the manifest.
    layers : list of LayerPlan
        All layers asked for.
    active : list of LayerPlan
        Those that missed at least one row at first: what the run adds to.
    lacking : dict of str to ndarray of bool, each (n_rows,)
        View → which rows a layer of the network missed at first.
    """

    digests: Digests
    paths: Texts
    layers: list[LayerPlan]
    active: list[LayerPlan]
    lacking: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        masks: dict[str, list[np.ndarray]] = {}
        for layer in self.of_network:
            masks.setdefault(layer.view, []).append(layer.missing)
        lacking = {view: np.logical_or.reduce(some) for view, some in masks.items()}
        object.__setattr__(self, "lacking", lacking)

    @property
    def of_network(self) -> list[LayerPlan]:
        """The active layers but for the images themselves: what a network computes."""
        return [layer for layer in self.active if not layer.spec.is_pixels]

    @property
    def keys(self) -> list[str]:
        """Of the feature sets of all layers."""
        return [layer.features.key for layer in self.layers]

    @property
    def active_keys(self) -> list[str]:
        """Of the feature sets that the run adds to."""
        return [layer.features.key for layer in self.active]

    @property
    def bytes_to_write(self) -> int:
        """Bytes of the missing activations, before compression."""
        return sum(int(layer.missing.sum()) * layer.row.row_bytes for layer in self.layers)


def plan_extraction(
    paths: Texts,
    digests: Digests,
    failures: Mapping[bytes, str],
    layers: Sequence[tuple[LayerSpec, Recipe, RowFormat, FeatureSet]],
    *,
    active: Collection[str] = (),
) -> ExtractionPlan:
    """Find out what a run has to compute.

    Parameters
    ----------
    paths, digests : Texts and Digests, length n
        Of the dataset's rows; an unreadable file's digest is ``b""``.
    failures : mapping of bytes to str
        Digests known to be undecodable, with the reason.
    layers : sequence of (LayerSpec, Recipe, RowFormat, FeatureSet)
    active : collection of str
        Keys of feature sets that are among the active ones even if they lack none of these rows.
    """
    located = [features.locate(digests) for *_, features in layers]
    rows = np.flatnonzero(np.logical_or.reduce([one.missing for one in located]))
    found = Digests(digests.array[rows])
    rows = rows[found.first & ~found.is_in(failures.keys())]
    plans = [
        LayerPlan(
            spec=spec,
            recipe=recipe,
            row=row,
            features=features,
            missing=locations.missing[rows],
            locations=locations,
        )
        for (spec, recipe, row, features), locations in zip(layers, located, strict=True)
    ]
    return ExtractionPlan(
        digests=Digests(digests.array[rows]),
        paths=Texts.of(paths[row] for row in rows.tolist()),
        layers=plans,
        active=[plan for plan in plans if plan.features.key in active or plan.missing.any()],
    )
