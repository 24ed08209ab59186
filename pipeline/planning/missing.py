"""Which rows each layer is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.recipe import Recipe
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.datasets.digests import Digests


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer of a run.

    Attributes
    ----------
    missing : ndarray of bool, shape (n_rows,)
        Which of the plan's rows this layer lacks; no longer those that another run adds while
        this one is going.
    """

    spec: LayerSpec
    recipe: Recipe
    row: RowFormat
    features: FeatureSet
    missing: np.ndarray

    @property
    def view(self) -> str:
        """The view of the images that it is of."""
        return str(self.recipe["view"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPlan:
    """The work of a run.

    Attributes
    ----------
    digests : list of bytes
        The different images to compute, in manifest order.
    paths : list of str
        Where each is read: its first row in the manifest.
    layers : list of LayerPlan
        All layers asked for.
    active : list of LayerPlan
        Those that missed at least one row at first: what the run adds to.
    lacking : dict of str to ndarray of bool, each (n_rows,)
        View → which rows a layer of the network missed at first.
    """

    digests: list[bytes]
    paths: list[str]
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
    def bytes_to_write(self) -> int:
        """Bytes of the missing activations, before compression."""
        return sum(int(layer.missing.sum()) * layer.row.row_bytes for layer in self.layers)


def plan_extraction(
    paths: Sequence[str],
    digests: Digests,
    failures: Mapping[bytes, str],
    layers: Sequence[tuple[LayerSpec, Recipe, RowFormat, FeatureSet]],
) -> ExtractionPlan:
    """Find out what a run has to compute.

    Parameters
    ----------
    paths : sequence of str, length n
    digests : Digests, length n
        Of the dataset's rows; an unreadable file's is ``b""``.
    failures : mapping of bytes to str
        Digests known to be undecodable, with the reason.
    layers : sequence of (LayerSpec, Recipe, RowFormat, FeatureSet)
    """
    masks = [features.locate(digests).missing for *_, features in layers]
    first: dict[bytes, int] = {}
    # Of a million rows few may be missing: only these become bytes.
    for row in np.flatnonzero(np.logical_or.reduce(masks)).tolist() if masks else ():
        digest = digests[row]
        if digest and digest not in failures:
            first.setdefault(digest, row)
    rows = np.array(list(first.values()), np.int64)
    plans = [
        LayerPlan(spec=spec, recipe=recipe, row=row, features=features, missing=mask[rows])
        for (spec, recipe, row, features), mask in zip(layers, masks, strict=True)
    ]
    return ExtractionPlan(
        digests=list(first),
        paths=[paths[row] for row in first.values()],
        layers=plans,
        active=[plan for plan in plans if plan.missing.any()],
    )
