"""Everything a run knows before it computes anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        dataset = open_dataset(options.dataset, index, workers=options.run.workers)
    decode = build_decode_spec(options.features, backbone)
    decoding = f"{decode!r} {describe_decoder()}"
    described = describe_layers(options.features, backbone, options.run.compression)
    if uses:
        uses.add([recipe_key(recipe) for _, recipe, _ in described])
    layers = []
    for spec, recipe, row in described:
        features = FeatureSet(layout, recipe, index)
        layers.append((spec, recipe, row, features))
    failures = recall_failures(index, decoding, [features.key for *_, features in layers])
    manifest = dataset.manifest
    plan = plan_extraction(manifest.paths, manifest.digests, failures, layers)
    return Preparation(
        dataset=dataset,
        backbone=backbone,
        layout=layout,
        decode=decode,
        isolation=options.run.isolation,
        decoding=decoding,
        failures=failures,
        plan=plan,
        fitting=fit_memory(options.run, backbone, manifest=manifest, plan=plan),
    )


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
