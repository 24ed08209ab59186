"""The main job: every image once through the backbone, its activations into the cache."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import DamagedError
from cache.files import published
from cache.index import Index
from cache.layout import CacheLayout, open_cache
from cache.shard import RowFormat
from cache.store import FeatureSet, join_digests
from cache.view import ViewImages, ViewLayer, write_view
from pipeline.backbones import Backbone
from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import PipelineError, StoppedError
from pipeline.options import ExtractOptions
from pipeline.plan import ExtractionPlan, LayerPlan, choose_batch_size, plan_extraction
from pipeline.progress import Shares, show_progress
from pipeline.recipe import build_decode_spec, build_recipe
from stages.decode import DecodeSpec
from stages.errors import InputError
from stages.start import NVIDIA_DEVICES

if TYPE_CHECKING:
    from pipeline.loading import LoadedBatch
    from stages.engine import Program

_log = logging.getLogger(__name__)

# Measured on two cores: beyond 32 images, or 600 MB of activations, batches are no faster (VGG16
# with 8, 16 and 32 images alike), they only cost memory. A GPU wants more.
_LARGEST_CPU_BATCH = 32
_LARGEST_CPU_BATCH_BYTES = 1_300_000_000
_LARGEST_GPU_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is known before anything is computed."""

    dataset: Dataset
    backbone: Backbone
    layout: CacheLayout
    decode: DecodeSpec
    decoding: str
    failures: dict[bytes, str]
    plan: ExtractionPlan
    batch_size: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened while computing; failures by path, or by digest where copies share them."""

    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[bytes, str] = field(default_factory=dict)
    n_computed: int = 0
    n_rotated: int = 0
    bytes_written: int = 0
    shares: Shares = field(default_factory=Shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSummary:
    """The figures of a run; the first seven are what ``--json`` promises."""

    images: int
    computed: int
    reused: int
    failed: int
    seconds: float
    images_per_second: float
    bytes_written: int
    rotated: int
    bottleneck: str | None
    features: str
    failures: str | None

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return asdict(self)

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        lines = [
            f"{self.images} images: {self.computed} computed, {self.reused} reused,"
            f" {self.failed} failed, in {self.seconds:.1f} s",
            f"  features: {self.features}",
        ]
        if self.computed:
            lines.append(
                f"  {self.images_per_second:.1f} images/s, bottleneck: {self.bottleneck},"
                f" {self.bytes_written:,} bytes written"
            )
        if self.failures:
            lines.append(f"  failures: {self.failures}")
        if self.rotated:
            lines.append(
                f"  {self.rotated} images ask to be shown turned (EXIF), which Keras ignores and"
                " this run did too; --orient exif turns them"
            )
        return "\n".join(lines)


def extract(options: ExtractOptions, out: Path) -> ExtractSummary:
    """Compute what is missing and write ``features.h5``.

    Parameters
    ----------
    options : ExtractOptions
    out : Path
        The view; ``<out>.failures.csv`` beside it lists the images that could not be read.

    Returns
    -------
    ExtractSummary

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each; see their modules.
    """
    started_s = time.monotonic()
    layout = open_cache(options.cache)
    _check_out(out)
    with Index(layout.index_file) as index:
        prepared = prepare(options, layout, index)
        tally = Tally(unreadable=dict(prepared.dataset.unreadable))
        _stop_on_failure(options, prepared, tally)
        if prepared.plan.digests:
            compute_missing(options, prepared, index, tally)
        failed = write_results(options, prepared, tally, out=out)
    return _summarize(prepared, tally, failed, out, seconds=time.monotonic() - started_s)


def _check_out(out: Path) -> None:
    """Find out before the work, not after it, that its result cannot be written."""
    if out.is_dir():
        raise PipelineError(f"--out {str(out)!r} is a folder; name a file in it, as features.h5")
    out.parent.mkdir(parents=True, exist_ok=True)


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
        layers.append((spec, recipe, row, FeatureSet(layout, recipe, index)))
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


def compute_missing(
    options: ExtractOptions, prepared: Preparation, index: Index, tally: Tally
) -> None:
    """Load → forward → write, overlapped: the loop of the whole project."""
    from pipeline.loading import BatchLoader, choose_ahead, open_client, split_batches
    from pipeline.writing import ActivationWriter

    plan, spec, shares = prepared.plan, prepared.decode, tally.shares
    tasks = split_batches(plan.paths, plan.digests, prepared.batch_size)
    batch_bytes = prepared.batch_size * spec.height * spec.width * spec.channels
    with ExitStack() as stack:
        client = stack.enter_context(open_client(options.run))
        ahead = choose_ahead(batch_bytes, options.run)
        loader = BatchLoader(client, prepared.dataset.source, tasks, spec=spec, ahead=ahead)
        program: Program | None = None
        writer = stack.enter_context(
            ActivationWriter(prepared.layout, plan, index=index, decoding=prepared.decoding)
        )
        advance = stack.enter_context(show_progress(len(plan.digests), shares))
        clock_s = time.monotonic()
        for batch in loader:
            shares.loading += time.monotonic() - clock_s
            _note_failures(options, prepared, batch, tally)
            forward_s = time.monotonic()
            if batch.readable.any():
                # Built here, and not before, so that the next batches decode meanwhile.
                program = program or _build_program(options, prepared)
                activations = run_program(program, batch.pixels)
                shares.backbone += time.monotonic() - forward_s
                writer.write(batch, activations)
            tally.n_computed += int(batch.readable.sum())
            advance(len(batch.pixels))
            shares.disk = writer.waited_s
            clock_s = time.monotonic()
    tally.bytes_written = writer.bytes_written
    if tally.n_computed:
        rate = tally.n_computed / (shares.loading + shares.backbone + shares.disk)
        index.add_memo(_rate_key(plan.layers), f"{rate:.4g}")


def recall_rate(index: Index, layers: Sequence[LayerPlan]) -> float | None:
    """Return the images/s that these layers were last computed at, if they were."""
    known = index.memo(_rate_key(layers))
    return float(known) if known else None


def _rate_key(layers: Sequence[LayerPlan]) -> str:
    return "images/s " + " ".join(sorted(layer.features.key for layer in layers))


def run_program(program: Program, batch: np.ndarray) -> list[np.ndarray]:
    """Run a batch, in halves where it does not fit the device's memory."""
    from stages.engine import OutOfMemoryError

    try:
        return program(batch)
    except OutOfMemoryError:
        if len(batch) == 1:
            raise
        _log.warning("out of memory with %d images at once; trying half", len(batch))
    half = len(batch) // 2
    halves = run_program(program, batch[:half]), run_program(program, batch[half:])
    return [np.concatenate(parts) for parts in zip(*halves, strict=True)]


def _build_program(options: ExtractOptions, prepared: Preparation) -> Program:
    from stages.engine import Program, ProgramSpec

    spec = ProgramSpec(
        layers=tuple(layer.spec for layer in prepared.plan.active),
        preprocess=prepared.backbone.preprocess,
        view=options.features.view,
    )
    return Program(prepared.backbone.load(), spec)


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


def _note_failures(
    options: ExtractOptions, prepared: Preparation, batch: LoadedBatch, tally: Tally
) -> None:
    tally.n_rotated += batch.n_rotated
    failed = batch.unreadable | batch.broken
    for row, reason in failed.items():
        tally.failed[prepared.plan.digests[batch.start + row]] = reason
    if failed:
        _stop_on_failure(options, prepared, tally)


def _stop_on_failure(options: ExtractOptions, prepared: Preparation, tally: Tally) -> None:
    if options.run.on_error == "fail":
        for path, reason in _list_failures(prepared, tally):
            raise StoppedError(f"cannot read {path!r}: {reason}; --on-error skip goes on without")


def _list_failures(prepared: Preparation, tally: Tally) -> list[tuple[str, str]]:
    """Return (path, reason) of each row that has no features, in manifest order."""
    manifest = prepared.dataset.manifest
    failed = {**prepared.failures, **tally.failed}
    found = []
    for path, digest in zip(manifest.paths, manifest.digests, strict=True):
        reason = tally.unreadable.get(path) or failed.get(digest)
        if reason is not None:
            found.append((path, reason))
    return found


def write_results(
    options: ExtractOptions, prepared: Preparation, tally: Tally, *, out: Path
) -> list[tuple[str, str]]:
    """Write the view and the list of failures, which is returned."""
    failed = _list_failures(prepared, tally)
    reasons = dict(failed)
    manifest = prepared.dataset.manifest
    rows = [row for row, path in enumerate(manifest.paths) if path not in reasons]
    if not rows:
        raise InputError(
            f"none of the {len(manifest)} images of {manifest.root!r} can be read;"
            f" the first: {failed[0][0]!r}: {failed[0][1]}"
        )
    kept = manifest.select(rows)
    images = ViewImages(
        root=kept.root,
        paths=kept.paths,
        labels=kept.labels,
        splits=kept.splits,
        digests=join_digests(kept.digests),
    )
    layers = [_locate(layer, kept.digests) for layer in prepared.plan.layers]
    origin = options.features.to_json()
    write_view(out, images, layers, origin=origin, materialize=options.run.materialize)
    _write_failures(failures_path(out), failed)
    return failed


def _locate(layer: LayerPlan, digests: list[bytes]) -> ViewLayer:
    locations = layer.features.locate(digests)
    if locations.missing.any():
        # What this run computed is not in the set as it was when planned.
        layer.features.refresh()
        locations = layer.features.locate(digests)
    if locations.missing.any():
        raise DamagedError(f"rows of {layer.spec} vanished from the cache meanwhile; run again")
    return ViewLayer(
        spec=str(layer.spec),
        recipe=layer.recipe,
        folder=layer.features.folder,
        row=layer.row,
        locations=locations,
    )


def failures_path(out: Path) -> Path:
    """Return where the failures of a view are listed."""
    return out.with_name(f"{out.name}.failures.csv")


def _write_failures(file: Path, failed: Sequence[tuple[str, str]]) -> None:
    if not failed:
        file.unlink(missing_ok=True)
        return
    with (
        published(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(("path", "reason"))
        writer.writerows(failed)


def _summarize(
    prepared: Preparation,
    tally: Tally,
    failed: Sequence[tuple[str, str]],
    out: Path,
    *,
    seconds: float,
) -> ExtractSummary:
    n_images = len(prepared.dataset.manifest)
    return ExtractSummary(
        images=n_images,
        computed=tally.n_computed,
        reused=n_images - tally.n_computed - len(failed),
        failed=len(failed),
        seconds=round(seconds, 3),
        images_per_second=round(tally.n_computed / seconds, 2),
        bytes_written=tally.bytes_written,
        rotated=tally.n_rotated,
        bottleneck=tally.shares.bottleneck if tally.n_computed else None,
        features=str(out),
        failures=str(failures_path(out)) if failed else None,
    )
