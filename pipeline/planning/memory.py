"""What of the memory budget the plan takes, and how many images go through a backbone at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.missing import ExtractionPlan, LayerPlan
from permafrost.pipeline.units import describe_bytes
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.frameworks.start import NVIDIA_DEVICES
from permafrost.stages.sources.sharded.source import ShardedSource

# Measured on two cores: beyond 32 images, or 300 MB of activations, batches are no faster (VGG16
# with 8, 16 and 32 images alike), they only cost memory (2.0 and 2.5 GB with 8 and 16). A GPU wants
# more.
_LARGEST_CPU_BATCH = 32
_LARGEST_CPU_BATCH_BYTES = 650_000_000
_LARGEST_GPU_BATCH = 128
_ROWS_PER_BLOCK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a run fits its memory budget.

    Attributes
    ----------
    memory_bytes : int
        What the plan leaves for images and activations in flight.
    batch_size : int
        Images that go through the backbone at once.
    """

    memory_bytes: int
    batch_size: int


def fit_memory(
    run: RunOptions,
    backbone: Backbone,
    *,
    dataset: Dataset,
    plan: ExtractionPlan,
    n_rows: int | None = None,
) -> Fitting:
    """Take the plan off the memory budget, and choose the size of batches unless it is given.

    Parameters
    ----------
    run : RunOptions
    backbone : Backbone
    dataset : Dataset
        What its source keeps of Parquet's row groups is taken off, too.
    plan : ExtractionPlan
    n_rows : int, optional
        Of the whole work, where `plan` is a part of it: batches need not be larger.

    Raises
    ------
    PipelineError
        The plan leaves too little for a single image.
    """
    layers = backbone.card.layers.values()
    activation_bytes = 4 * max((int(np.prod(layer.shape)) for layer in layers), default=0)
    kept_bytes = sum(layer.row.row_bytes for layer in plan.layers)
    # Where nothing is computed, nothing is in flight.
    plan_bytes = count_plan_bytes(dataset.manifest, plan) if plan.digests else 0
    table_bytes = 0
    if plan.digests and isinstance(dataset.source, ShardedSource):
        table_bytes = dataset.source.reserve_memory(run.memory_bytes)
        plan_bytes += table_bytes
    left_bytes = run.memory_bytes - plan_bytes
    one_bytes = count_image_bytes(activation_bytes, kept_bytes)
    if left_bytes <= 0 or left_bytes < one_bytes <= run.memory_bytes:
        needed = -(-(plan_bytes + one_bytes) // 1_000_000)
        tables = f", {describe_bytes(table_bytes)} for row groups" if table_bytes else ""
        raise PipelineError(
            f"the plan of {len(dataset.manifest)} images takes {describe_bytes(plan_bytes)} of"
            f" --memory{tables}, which leaves too little to compute; give it {needed}MB or more"
        )
    on_gpu = NVIDIA_DEVICES.is_dir()
    batch_size = run.batch_size or choose_batch_size(
        one_bytes,
        memory_bytes=left_bytes if on_gpu else min(left_bytes, _LARGEST_CPU_BATCH_BYTES),
        largest=_LARGEST_GPU_BATCH if on_gpu else _LARGEST_CPU_BATCH,
    )
    n_rows = len(plan.digests) if n_rows is None else n_rows
    return Fitting(memory_bytes=left_bytes, batch_size=min(batch_size, n_rows or batch_size))


def count_plan_bytes(manifest: Manifest, plan: ExtractionPlan) -> int:
    """Count the bytes of a dataset's rows, of what is known of the cache's, and of the work."""
    columns = (manifest.labels, manifest.splits, *manifest.extra.values())
    return (
        sum(map(sys.getsizeof, (manifest.paths, plan.paths)))
        + sum(digests.array.nbytes for digests in (manifest.digests, plan.digests))
        + sum(map(_count_column_bytes, columns))
        + sum(map(_count_layer_bytes, plan.layers))
    )


def _count_layer_bytes(layer: LayerPlan) -> int:
    located = layer.locations
    n_bytes = located.shard.nbytes + located.row.nbytes if located else 0
    return n_bytes + layer.features.table_bytes + layer.missing.nbytes


def _count_column_bytes(cells: Sequence[str]) -> int:
    """Count a list and what is in it; what recurs among neighbours is mostly one object."""
    n_bytes = sys.getsizeof(cells)
    for start in range(0, len(cells), _ROWS_PER_BLOCK):
        once = {id(cell): cell for cell in cells[start : start + _ROWS_PER_BLOCK]}
        n_bytes += sum(map(sys.getsizeof, once.values()))
    return n_bytes


def count_image_bytes(activation_bytes: int, kept_bytes: int) -> int:
    """Count the budget that each image of a batch needs.

    Parameters
    ----------
    activation_bytes : int
        Of the network's largest activation for one image. About three of them live at once: a
        layer's input and output, and the scratch space of the convolution between: half of the
        budget.
    kept_bytes : int
        Of the activations of one image that are kept. Four batches of them live at once, two with
        the backbone and two with the writer: a quarter of the budget.
    """
    return max(1, 6 * activation_bytes, 16 * kept_bytes)


def choose_batch_size(image_bytes: int, *, memory_bytes: int, largest: int) -> int:
    """Choose the largest power of two that fits the memory budget.

    Parameters
    ----------
    image_bytes, memory_bytes : int
        See `count_image_bytes`.
    largest : int
        Beyond which a larger batch is no faster.
    """
    return 1 << (max(1, min(largest, memory_bytes // image_bytes)).bit_length() - 1)
