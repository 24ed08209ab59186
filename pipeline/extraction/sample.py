"""Some images from all over a dataset, decoded in both ways: what a comparison is made on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.forward.batch import BatchTask, load_batch, split_batches
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.decoding.choices import DECODE_MODES

_MOST_IMAGES, _PIECE = 32, 4
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
        paths, digests, rows = manifest.paths, manifest.digests, np.flatnonzero(prepared.countable)
    places = np.linspace(0, len(rows) - 1, min(_MOST_IMAGES, len(rows))).astype(int)
    n_pieces = -(-len(places) // _PIECE)
    scattered = [rows[places[piece::n_pieces]] for piece in range(n_pieces)]
    for piece in scattered:
        yield from split_batches(paths, digests, piece, batch_size=_PIECE)


def decode_sample(prepared: Preparation, *, n_threads: int) -> DecodedSample:
    """Decode images in both ways; in isolation, in the way that is asked for.

    As many threads as decode in a run are at it: two on one core are not twice as fast.
    """
    asked = prepared.decode.decoding
    modes = (asked,) if prepared.isolation else DECODE_MODES
    tasks = list(_choose_tasks(prepared))
    for task in tasks[:1]:  # What is imported for the first image is no part of its time.
        _load(prepared, _keep_first(task), asked)
    until_s = time.perf_counter() + _ENOUGH_S

    def load(task: BatchTask) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
        is_over = time.perf_counter() > until_s
        return {} if is_over else {mode: _load(prepared, task, mode) for mode in modes}

    pieces: dict[str, list[np.ndarray]] = {mode: [] for mode in modes}
    seconds = dict.fromkeys(modes, 0.0)
    with ThreadPoolExecutor(n_threads) as pool:
        for loaded in filter(None, pool.map(load, tasks)):
            readable = np.logical_and.reduce([mask for _, mask, _ in loaded.values()])
            for mode, (piece, _, took_s) in loaded.items():
                pieces[mode].append(piece[readable])
                seconds[mode] += took_s
    pixels = {mode: np.concatenate(some) for mode, some in pieces.items() if some}
    if not pixels or not len(pixels[modes[0]]):
        n_tried = sum(len(task.rows) for task in tasks)
        raise PipelineError(
            f"--compare: none of {n_tried} images can be decoded; extract says why of each"
        )
    rates = {mode: len(pixels[mode]) / max(1e-9, seconds[mode]) for mode in modes}
    difference = float(np.abs(pixels[modes[0]].astype(np.int16) - pixels[modes[-1]]).mean())
    kept = modes if difference else (asked,)
    return DecodedSample(
        pixels={mode: pixels[mode] for mode in kept},
        per_second={mode: rates[mode] for mode in kept},
        difference=round(difference, 3) or None,
    )


def _keep_first(task: BatchTask) -> BatchTask:
    return BatchTask(rows=task.rows[:1], paths=task.paths[:1], digests=task.digests[:1])


def _load(
    prepared: Preparation, task: BatchTask, mode: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Load a piece; return its pixels, which are readable, and the seconds of one core."""
    spec, started_s = replace(prepared.decode, decoding=mode), time.perf_counter()
    batch = load_batch(prepared.dataset.source, task, spec=spec, isolation=prepared.isolation)
    took_s = time.perf_counter() - started_s if prepared.isolation else batch.decoding_s
    return batch.pixels, batch.readable, took_s
