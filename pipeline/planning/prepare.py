"""Everything a run knows before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.leases import Uses
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.pipeline.options import ExtractOptions, FeatureOptions, RunOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.dataset import Dataset, open_dataset
from permafrost.pipeline.planning.missing import (
    ExtractionPlan,
    choose_batch_size,
    plan_extraction,
)
from permafrost.pipeline.planning.recipe import build_decode_spec, build_recipe
from permafrost.pipeline.planning.remembered import recall_failures
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.decoding.decode import DecodeSpec, describe_decoder
from permafrost.stages.decoding.isolation import Isolation
from permafrost.stages.frameworks.start import NVIDIA_DEVICES

# Measured on two cores: beyond 32 images, or 300 MB of activations, batches are no faster (VGG16
# with 8, 16 and 32 images alike), they only cost memory (2.0 and 2.5 GB with 8 and 16). A GPU wants
# more.
_LARGEST_CPU_BATCH = 32
_LARGEST_CPU_BATCH_BYTES = 650_000_000
_LARGEST_GPU_BATCH = 128


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
    batch_size: int


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
    return Preparation(
        dataset=dataset,
        backbone=backbone,
        layout=layout,
        decode=decode,
        isolation=options.run.isolation,
        decoding=decoding,
        failures=failures,
        plan=plan_extraction(manifest.paths, manifest.digests, failures, layers),
        batch_size=fit_batch(options.run, backbone, [row for *_, row, _ in layers]),
    )


def describe_layers(
    features: FeatureOptions, backbone: Backbone, compression: str
) -> list[tuple[LayerSpec, Recipe, RowFormat]]:
    """Describe the feature set of each layer that is asked for."""
    described = []
    for spec in backbone.layers:
        recipe = build_recipe(features, backbone, spec)
        row = RowFormat(
            shape=backbone.card.find_layer(spec.layer).pool_shape(spec),
            dtype=str(recipe["dtype"]),
            compression=compression,
        )
        described.append((spec, recipe, row))
    return described


def fit_batch(run: RunOptions, backbone: Backbone, rows: Sequence[RowFormat]) -> int:
    """Choose how many images go through a backbone at once, where the options do not say."""
    if run.batch_size:
        return run.batch_size
    layers = backbone.card.layers.values()
    on_gpu = NVIDIA_DEVICES.is_dir()
    memory_bytes = run.memory_bytes
    return choose_batch_size(
        4 * max((int(np.prod(layer.shape)) for layer in layers), default=0),
        kept_bytes=sum(row.row_bytes for row in rows),
        memory_bytes=memory_bytes if on_gpu else min(memory_bytes, _LARGEST_CPU_BATCH_BYTES),
        largest=_LARGEST_GPU_BATCH if on_gpu else _LARGEST_CPU_BATCH,
    )
