"""Several views of the same images: each is decoded once, and turned before it meets a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.planning.missing import LayerPlan
from permafrost.stages.backbones.preprocessing import VIEWS, turn
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.shortcuts.differences import Run


def choose_view(layers: Sequence[LayerPlan]) -> str:
    """Choose what a program turns images to itself; of several views it gets turned images."""
    views = {layer.view for layer in layers}
    return views.pop() if len(views) == 1 else VIEWS[0]


def turn_batch(batch: NDArray[np.uint8], view: str) -> NDArray[np.uint8]:
    """Return a view of a batch of images, shape (n, height, width, channels)."""
    # Whole pixels move: a third less time than that of their bytes, 12 ms for 32 of 224x224.
    pixels = np.ascontiguousarray(batch).view(f"V{batch.shape[-1]}")
    return np.ascontiguousarray(turn(np, pixels, view)).view(np.uint8)


def run_views(
    network: Run,
    batch: NDArray[np.uint8],
    layers: Sequence[LayerPlan],
    spec: ProgramSpec,
    *,
    lacking: Mapping[str, bool] | None = None,
) -> list[np.ndarray]:
    """Put each view of a batch through a network.

    Parameters
    ----------
    network : callable
        The program of `spec`.
    batch : ndarray of uint8, shape (n, height, width, channels)
        As decoded.
    layers : sequence of LayerPlan
        What is wanted: layers of `spec`, of any view.
    spec : ProgramSpec
        `choose_view` chose its view.
    lacking : mapping of str to bool, optional
        Whether a view is wanted of any image of this batch.

    Returns
    -------
    list of ndarray of float32, each (n, *shape)
        Of each of `layers`; NaN where it is not wanted.
    """
    found = {}
    for view in dict.fromkeys(layer.view for layer in layers):
        if lacking is None or lacking[view]:
            images = batch if view == spec.view else turn_batch(batch, view)
            found[view] = dict(zip(spec.layers, network(images), strict=True))
    return [
        found[layer.view][layer.spec.without_view]
        if layer.view in found
        else np.broadcast_to(np.float32(np.nan), (len(batch), *layer.row.shape))
        for layer in layers
    ]
