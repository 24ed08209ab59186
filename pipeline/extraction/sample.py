"""Some images from all over a dataset, decoded in both ways: what a comparison is made on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.forward.batch import BatchTask, load_batch, split_batches
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.decoding.choices import DECODE_MODES

_MOST_IMAGES, _PIECE = 32, 8
# After so long, no more are decoded.
_ENOUGH_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedSample:
    """Images, decoded.

    Attributes
    ----------
    pixels : dict of str to ndarray of uint8, each (n, height, width, channels)
        By way of decoding, ``"exact"`` first: both where they differ, else the one asked for.
    per_second : dict of str to float
        Images that one core decodes.
    difference : float or None
        Between both, on average, in grey levels of 256; None where there is but one.
    """

    pixels: dict[str, np.ndarray]
    per_second: dict[str, float]
    difference: float | None


def _choose_tasks(prepared: Preparation) -> Iterator[BatchTask]:
    """Choose images from all over the dataset, and for each piece of them again."""
    plan, manifest = prepared.plan, prepared.dataset.manifest
    paths, digests, rows = plan.paths, plan.digests, np.arange(len(plan.digests))
    if not len(rows):
        paths, digests, rows = manifest.paths, manifest.digests, find_distinct(prepared)
    places = np.linspace(0, len(rows) - 1, min(_MOST_IMAGES, len(rows))).astype(int)
    n_pieces = -(-len(places) // _PIECE)
    scattered = [rows[places[piece::n_pieces]] for piece in range(n_pieces)]
    for piece in scattered:
        yield from split_batches(paths, digests, piece, batch_size=_PIECE)


def find_distinct(prepared: Preparation) -> np.ndarray:
    """Return the first row of each different image that is not known to be unreadable."""
    digests = prepared.dataset.manifest.digests
    return np.flatnonzero(digests.first & ~digests.is_in(prepared.failures.keys()))


def decode_sample(prepared: Preparation) -> DecodedSample:
    """Decode images in both ways; in isolation, in the way that is asked for."""
    asked = prepared.decode.decoding
    modes = (asked,) if prepared.isolation else DECODE_MODES
    pieces: dict[str, list[np.ndarray]] = {mode: [] for mode in modes}
    seconds, started_s, n_tried = dict.fromkeys(modes, 0.0), time.perf_counter(), 0
    for task in _choose_tasks(prepared):
        n_tried += len(task.paths)
        loaded = {mode: _load(prepared, task, mode) for mode in modes}
        readable = np.logical_and.reduce([mask for _, mask, _ in loaded.values()])
        for mode, (piece, _, took_s) in loaded.items():
            pieces[mode].append(piece[readable])
            seconds[mode] += took_s
        if time.perf_counter() - started_s > _ENOUGH_S:
            break
    pixels = {mode: np.concatenate(some) for mode, some in pieces.items() if some}
    if not pixels or not len(pixels[modes[0]]):
        raise PipelineError(
            f"--compare: none of {n_tried} images can be decoded; see which with extract"
        )
    rates = {mode: len(pixels[mode]) / max(1e-9, seconds[mode]) for mode in modes}
    difference = float(np.abs(pixels[modes[0]].astype(np.int16) - pixels[modes[-1]]).mean())
    kept = modes if difference else (asked,)
    return DecodedSample(
        pixels={mode: pixels[mode] for mode in kept},
        per_second={mode: rates[mode] for mode in kept},
        difference=round(difference, 3) or None,
    )


def _load(
    prepared: Preparation, task: BatchTask, mode: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Load a piece; return its pixels, which are readable, and the seconds of one core."""
    spec, started_s = replace(prepared.decode, decoding=mode), time.perf_counter()
    batch = load_batch(prepared.dataset.source, task, spec=spec, isolation=prepared.isolation)
    took_s = time.perf_counter() - started_s if prepared.isolation else batch.decoding_s
    return batch.pixels, batch.readable, took_s
