"""Everything a run knows before it computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.index import Index
from cache.layout import CacheLayout
from cache.shard import RowFormat
from cache.store import FeatureSet
from pipeline.backbones import Backbone
from pipeline.dataset import Dataset, open_dataset
from pipeline.options import ExtractOptions
from pipeline.plan import ExtractionPlan, LayerPlan, choose_batch_size, plan_extraction
from pipeline.recipe import build_decode_spec, build_recipe
from stages.decode import DecodeSpec
from stages.start import NVIDIA_DEVICES

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
    dataset : Dataset
    backbone : Backbone
    layout : CacheLayout
    decode : DecodeSpec
    decoding : str
        Under which the index remembers images that cannot be decoded in this way.
    failures : dict of bytes to str
        Those images, and those that a layer has no value for: digest → reason.
    plan : ExtractionPlan
    batch_size : int
    """

    dataset: Dataset
    backbone: Backbone
    layout: CacheLayout
    decode: DecodeSpec
    decoding: str
    failures: dict[bytes, str]
    plan: ExtractionPlan
    batch_size: int


def prepare(options: ExtractOptions, layout: CacheLayout, index: Index) -> Preparation:
    """List and hash the images, look up the backbone, and find out what is missing."""
    backbone = Backbone(options.features, index)
    dataset = open_dataset(options.dataset, index, workers=options.run.workers)
    card = backbone.card
    decode = build_decode_spec(options.features, backbone)
    decoding = repr(decode)
    failures = index.failures(decoding)
    layers = []
    for spec in backbone.layers:
        recipe = build_recipe(options.features, backbone, spec)
        row = RowFormat(
            shape=spec.pool_shape(card.find_layer(spec.layer).shape),
            dtype=options.features.dtype,
            compression=options.run.compression,
        )
        features = FeatureSet(layout, recipe, index)
        # What the network gave for these images cannot be stored.
        failures |= index.failures(features.key)
        layers.append((spec, recipe, row, features))
    manifest = dataset.manifest
    return Preparation(
        dataset=dataset,
        backbone=backbone,
        layout=layout,
        decode=decode,
        decoding=decoding,
        failures=failures,
        plan=plan_extraction(manifest.paths, manifest.digests, failures, layers),
        batch_size=options.run.batch_size
        or _choose_batch_size(options, backbone, [row for *_, row, _ in layers]),
    )


def _choose_batch_size(
    options: ExtractOptions, backbone: Backbone, rows: Sequence[RowFormat]
) -> int:
    layers = backbone.card.layers.values()
    on_gpu = NVIDIA_DEVICES.is_dir()
    memory_bytes = options.run.memory_bytes
    return choose_batch_size(
        4 * max(int(np.prod(layer.shape)) for layer in layers),
        kept_bytes=sum(row.row_bytes for row in rows),
        memory_bytes=memory_bytes if on_gpu else min(memory_bytes, _LARGEST_CPU_BATCH_BYTES),
        largest=_LARGEST_GPU_BATCH if on_gpu else _LARGEST_CPU_BATCH,
    )


def recall_rate(index: Index, layers: Sequence[LayerPlan]) -> float | None:
    """Return the images/s that these layers were last computed at, if they were."""
    known = index.memo(_rate_key(layers))
    return float(known) if known else None


def _rate_key(layers: Sequence[LayerPlan]) -> str:
    return "images/s " + " ".join(sorted(layer.features.key for layer in layers))


def remember_rate(index: Index, layers: Sequence[LayerPlan], images_per_second: float) -> None:
    """Remember how fast these layers were computed, for the next plan."""
    index.add_memo(_rate_key(layers), f"{images_per_second:.4g}")
