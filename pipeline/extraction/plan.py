"""``plan``: what an extraction would do, computing no features."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from permafrost.cache.shards.format import SHARD_BYTES
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.records import Drift, Parity
from permafrost.pipeline.computing.writer import SHARD_SECONDS
from permafrost.pipeline.extraction.compare import compare
from permafrost.pipeline.extraction.comparison import Comparison
from permafrost.pipeline.forward.drift import describe_largest
from permafrost.pipeline.forward.fast_decoding import FastDecoding, measure_fast_decoding
from permafrost.pipeline.forward.parity import describe_parity, read_parities
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.pipeline.planning.remembered import recall_rate, recall_records
from permafrost.pipeline.units import count, describe_bytes, describe_seconds
from permafrost.stages.datasets.folders import Ignored

# Clusters that the time is told for.
_WORKERS = (2, 8, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPreview:
    """One layer: its rows in the cache, those that are missing, and the missing rows' bytes."""

    layer: str
    rows_cached: int
    rows_missing: int
    bytes_to_write: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an extraction would do.

    Attributes
    ----------
    images, to_compute, failed : int
        Rows of the dataset; different images that go through the backbone; rows already known to be
        unreadable.
    images_per_second, seconds : float or None
        As measured when this backbone last ran here with these layers, and estimated from that;
        None if it never did.
    worker_images_per_second : float or None
        The same of one worker of a cluster.
    shards : int
        Files to write, about.
    fast_decoding : FastDecoding or None
        What ``--decode fast`` would give; None where it is chosen already or not worth it.
    parity, drift : dict
        What is known of the errors of each layer against TensorFlow and float32, and of how far its
        values depend on the batch.
    ignored : Ignored
        What lies beside the images.
    digests_kept : bool
        Whether the next run need not hash the images again: there is a cache that remembers them.
    comparison : Comparison or None
        What other engines, precisions and ways of decoding would give; None unless it was asked.
    """

    images: int
    to_compute: int
    failed: int
    bytes_to_write: int
    batch_size: int
    images_per_second: float | None
    seconds: float | None
    worker_images_per_second: float | None
    shards: int
    layers: list[LayerPreview]
    fast_decoding: FastDecoding | None
    parity: dict[str, Parity]
    drift: dict[str, Drift]
    ignored: Ignored
    digests_kept: bool
    comparison: Comparison | None

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        figures = asdict(replace(self, comparison=None))
        del figures["comparison"]
        return figures | (self.comparison.to_dict() if self.comparison else {})

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        lines = [
            f"{self.images} images, {self.to_compute} to compute, {self.failed} known to be"
            f" unreadable; {describe_bytes(self.bytes_to_write)} to write, in about"
            f" {count(self.shards, 'shard')}"
        ]
        lines += [
            f"  {layer.layer}: {layer.rows_cached} cached, {layer.rows_missing} missing,"
            f" {describe_bytes(layer.bytes_to_write)}"
            for layer in self.layers
        ]
        lines += [f"  {describe_parity(*entry)}" for entry in self.parity.items()]
        lines += [f"  {line}" for line in describe_largest(self.drift)]
        if self.to_compute and self.seconds is not None:
            lines.append(
                f"  about {describe_seconds(self.seconds)} at {self.images_per_second:.1f} images/s"
            )
        elif self.to_compute:
            lines.append("  time unknown: this backbone has not run here with these layers yet")
        if self.to_compute and self.worker_images_per_second:
            lines.append(f"  {self._describe_workers(self.worker_images_per_second)}")
        if not self.digests_kept:
            lines.append(
                "  there is no cache yet to keep the images' hashes: extract reads all again"
            )
        if self.fast_decoding:
            lines.append(f"  {self.fast_decoding.describe()}")
        if self.comparison:
            lines += ["", self.comparison.describe()]
        return "\n".join(lines)

    def _describe_workers(self, rate: float) -> str:
        times = (f"{n} take {describe_seconds(self.to_compute / rate / n)}" for n in _WORKERS)
        return f"a worker of a cluster did {rate:.1f} images/s: {', '.join(times)}"


def _count_shards(layer: LayerPreview, seconds: float) -> int:
    """Count files of one layer: a shard is full by its bytes or after a while."""
    return math.ceil(max(layer.bytes_to_write / SHARD_BYTES, seconds / SHARD_SECONDS))


def preview(options: ExtractOptions, *, compares: bool = False) -> Preview:
    """Find out what an extraction would do; the cache need not exist yet.

    Parameters
    ----------
    options : ExtractOptions
    compares : bool
        Whether to time all engines and precisions, see `compare`; it takes about a minute.
    """
    exists = options.cache.exists()
    layout = open_cache(options.cache) if exists else CacheLayout(options.cache)
    with Index(layout.index_file if exists else None) as index:
        prepared = prepare(options, layout, index)
        found = _preview(options, prepared, index, digests_kept=exists)
        comparison = compare(options, prepared, index) if compares else None
        return replace(found, comparison=comparison)


def _preview(
    options: ExtractOptions, prepared: Preparation, index: Index, *, digests_kept: bool
) -> Preview:
    plan, manifest = prepared.plan, prepared.dataset.manifest
    digests = manifest.digests
    kept = digests.known & ~digests.is_in(prepared.failures.keys())
    n_distinct = int(prepared.countable.sum())
    rate = recall_rate(index, plan.keys)
    seconds = len(plan.digests) / rate if rate else 0.0
    layers = [
        LayerPreview(
            layer=str(layer.spec),
            rows_cached=n_distinct - int(layer.missing.sum()),
            rows_missing=int(layer.missing.sum()),
            bytes_to_write=int(layer.missing.sum()) * layer.row.row_bytes,
        )
        for layer in plan.layers
    ]
    return Preview(
        images=len(manifest),
        to_compute=len(plan.digests),
        failed=int((~kept).sum()),
        bytes_to_write=plan.bytes_to_write,
        batch_size=prepared.fitting.batch_size,
        images_per_second=rate,
        seconds=round(seconds, 1) if rate else None,
        worker_images_per_second=recall_rate(index, plan.keys, on_workers=True),
        shards=sum(max(1, _count_shards(layer, seconds)) for layer in layers if layer.rows_missing),
        layers=layers,
        fast_decoding=measure_fast_decoding(prepared),
        parity=read_parities(options.features, plan.layers),
        drift=recall_records(plan.layers, Drift),
        ignored=prepared.dataset.ignored,
        digests_kept=digests_kept,
        comparison=None,
    )
