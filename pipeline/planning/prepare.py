"""Everything a run knows before it computes anything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.leases import Uses
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.pipeline.options import ExtractOptions, FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.dataset import Dataset, open_dataset
from permafrost.pipeline.planning.memory import Fitting, fit_memory
from permafrost.pipeline.planning.missing import ExtractionPlan, plan_extraction
from permafrost.pipeline.planning.recipe import build_decode_spec, build_recipe
from permafrost.pipeline.planning.remembered import recall_failures
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.decoding.choices import Isolation
from permafrost.stages.decoding.decode import DecodeSpec, describe_decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is known before anything is computed.

    Attributes
    ----------
    isolation : Isolation or None
        What an image may take, if decoded in a process of its own.
    decoding : str
        How the index remembers the images that cannot be decoded in this way by this decoder.
    failures : dict of bytes to str
        Those images, and those that a layer has no value for: digest → reason.
    n_rows : int
        Of the whole work, where the plan is a part of it.
    """

    dataset: Dataset
    backbone: Backbone
    layout: CacheLayout
    decode: DecodeSpec
    isolation: Isolation | None
    decoding: str
    failures: dict[bytes, str]
    plan: ExtractionPlan
    fitting: Fitting
    n_rows: int

    @property
    def countable(self) -> NDArray[np.bool_]:
        """Mask of the dataset's rows, the first of each image not known to be unreadable."""
        digests = self.dataset.manifest.digests
        return digests.first & ~digests.is_in(self.failures.keys())


def prepare(
    options: ExtractOptions,
    layout: CacheLayout,
    index: Index,
    *,
    uses: Uses | None = None,
    dataset: Dataset | None = None,
) -> Preparation:
    """Look up the backbone, and find out what is missing.

    Parameters
    ----------
    options : ExtractOptions
    layout : CacheLayout
    index : Index
    uses : Uses, optional
        Is told which feature sets are relied on; without it they may be dropped meanwhile.
    dataset : Dataset, optional
        What `options` name, where it is listed and hashed already.
    """
    backbone = Backbone(options.features, index)
    if dataset is None:
        dataset = open_dataset(
            options.dataset, index, workers=options.run.n_threads, part=options.part
        )
    sets = open_sets(options, backbone, layout, index, uses=uses)
    return prepare_rows(options, backbone, sets, dataset, index)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSets:
    """The feature sets that a run reads and fills."""

    layout: CacheLayout
    decode: DecodeSpec
    layers: list[tuple[LayerSpec, Recipe, RowFormat, FeatureSet]]

    @property
    def decoding(self) -> str:
        """How the index remembers images that cannot be decoded in this way by this decoder."""
        return f"{self.decode!r} {describe_decoder()}"


def open_sets(
    options: ExtractOptions,
    backbone: Backbone,
    layout: CacheLayout,
    index: Index,
    *,
    uses: Uses | None = None,
) -> OpenSets:
    """Look up the feature set of each layer; `uses` is told of them first."""
    decode = build_decode_spec(options.features, backbone)
    described = describe_layers(options.features, backbone, options.run.compression)
    if uses:
        uses.add([recipe_key(recipe) for _, recipe, _ in described])
    layers = [
        (spec, recipe, row, FeatureSet(layout, recipe, index)) for spec, recipe, row in described
    ]
    return OpenSets(layout=layout, decode=decode, layers=layers)


def prepare_rows(  # noqa: PLR0913
    options: ExtractOptions,
    backbone: Backbone,
    sets: OpenSets,
    dataset: Dataset,
    index: Index,
    *,
    active: Collection[str] = (),
    n_rows: int | None = None,
) -> Preparation:
    """Find out what of a dataset is missing from feature sets.

    Parameters
    ----------
    options : ExtractOptions
    backbone : Backbone
    sets : OpenSets
    dataset : Dataset
    index : Index
    active : collection of str
        See `plan_extraction`.
    n_rows : int, optional
        See `fit_memory`.
    """
    keys = [features.key for *_, features in sets.layers]
    failures = recall_failures(index, sets.decoding, keys)
    manifest = dataset.manifest
    plan = plan_extraction(manifest.paths, manifest.digests, failures, sets.layers, active=active)
    n_rows = len(plan.digests) if n_rows is None else n_rows
    return Preparation(
        dataset=dataset,
        backbone=backbone,
        layout=sets.layout,
        decode=sets.decode,
        isolation=options.run.isolation,
        decoding=sets.decoding,
        failures=failures,
        plan=plan,
        fitting=fit_memory(options.run, backbone, dataset=dataset, plan=plan, n_rows=n_rows),
        n_rows=n_rows,
    )


def count_missing(options: ExtractOptions, prepared: Preparation, index: Index) -> int:
    """Count the images of a dataset that has been prepared which other options would compute."""
    sets = open_sets(options, prepared.backbone, prepared.layout, index)
    digests = prepared.dataset.manifest.digests
    missing = [features.locate(digests).missing for *_, features in sets.layers]
    return int((np.logical_or.reduce(missing) & prepared.countable).sum())


def describe_layers(
    features: FeatureOptions, backbone: Backbone, compression: str
) -> list[tuple[LayerSpec, Recipe, RowFormat]]:
    """Describe the feature set of each layer that is asked for, in each of the views."""
    described = []
    views = ("", *features.views[1:])
    for spec in (replace(layer, view=view) for view in views for layer in backbone.layers):
        recipe = build_recipe(features, backbone, spec)
        row = RowFormat(
            shape=backbone.card.find_layer(spec.layer).pool_shape(spec),
            dtype=str(recipe["dtype"]),
            compression=compression,
        )
        described.append((spec, recipe, row))
    return described
