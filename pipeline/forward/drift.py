"""How much activations depend on the size of the batch, measured on a run's first batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from permafrost.cache.store.records import Drift, read_record, write_record
from permafrost.pipeline.forward.batch import LoadedBatch
from permafrost.pipeline.planning.missing import LayerPlan
from permafrost.stages.shortcuts.differences import Run

_log = logging.getLogger(__name__)

# The promised accuracy of float32, relative to the largest value, whatever the batch size.
TOLERANCE = 1e-4


def noting_drift(
    batches: Iterable[tuple[LoadedBatch, list[np.ndarray]]],
    layers: Sequence[LayerPlan],
    run: Run,
) -> Iterator[tuple[LoadedBatch, list[np.ndarray]]]:
    """Yield the batches unchanged; run two images of the first one alone, and record the error.

    Parameters
    ----------
    batches : iterable of (LoadedBatch, list of ndarray)
        With the activations of each of the layers.
    layers : sequence of LayerPlan
        Nothing is measured where each has its record; of the images themselves there is none.
    run : callable
        The program.
    """
    measured = [layer for layer in layers if not layer.spec.is_pixels]
    is_known = all(read_record(layer.features.folder, Drift) for layer in measured)
    for batch, activations in batches:
        if not is_known and activations and batch.readable.sum() > 1:
            _note(batch, activations, layers, run)
            is_known = True
        yield batch, activations


def _note(
    batch: LoadedBatch, activations: list[np.ndarray], layers: Sequence[LayerPlan], run: Run
) -> None:
    rows = np.flatnonzero(batch.readable)[[0, -1]]
    alone = [run(batch.pixels[row : row + 1]) for row in rows]
    for number, layer in enumerate(layers):
        if layer.spec.is_pixels:
            continue
        together = activations[number][rows]
        apart = np.concatenate([values[number] for values in alone])
        if not (np.isfinite(together).all() and np.isfinite(apart).all()):
            continue  # Such rows are refused when they are written.
        error = float(np.abs(together - apart).max() / (np.abs(together).max() or 1.0))
        drift = Drift(images=len(rows), batch_size=len(batch.pixels), max_error=error)
        write_record(layer.features.folder, drift)
        if error > TOLERANCE and layer.recipe["precision"] == "float32":
            _log.warning("%s; this network amplifies rounding", describe_drift(layer.spec, drift))


def describe_drift(layer: object, drift: Drift) -> str:
    """Return a line for people."""
    return (
        f"{layer}: an image alone and in a batch of {drift.batch_size} differ by"
        f" {drift.max_error:.1e} of the largest value"
    )


def describe_largest(drifts: Mapping[str, Drift]) -> list[str]:
    """Return a line of the layer that depends most on the batch, if any is known."""
    if not drifts:
        return []
    return [describe_drift(*max(drifts.items(), key=lambda entry: entry[1].max_error))]
