"""Poolings: what is kept of a layer's activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

# What becomes of a map's positions: an array namespace (NumPy, or keras.ops on any backend and in
# any graph), maps of shape (n, *positions, channels) and the axes of the positions, to
# (n, channels). A new pooling is one more line here.
REDUCTIONS: Mapping[str, Callable[[Any, Any, tuple[int, ...]], Any]] = {
    "avg": lambda xp, maps, axes: xp.mean(maps, axis=axes),
    "max": lambda xp, maps, axes: xp.max(maps, axis=axes),
}
POOLINGS = (*REDUCTIONS, "flatten", "none")


def pool(xp: Any, activation: Any, pooling: str, *, channel_axis: int) -> Any:
    """Pool activations.

    Parameters
    ----------
    xp : module
        ``keras.ops`` or ``numpy``, whichever the activations are of.
    activation : array or tensor, shape (n, *shape)
    pooling : str
        One of `POOLINGS`.
    channel_axis : int
        Of a map, the batch's axis counted; -1 for the last.

    Returns
    -------
    array or tensor
        Shape (n, channels) for those of `REDUCTIONS`, (n, values) for ``"flatten"``, and the
        activation itself for ``"none"``.
    """
    shape = tuple(activation.shape[1:])
    if pooling in REDUCTIONS:
        axes = set(range(1, len(shape) + 1)) - {channel_axis % (len(shape) + 1)}
        return REDUCTIONS[pooling](xp, activation, tuple(sorted(axes)))
    return xp.reshape(activation, (-1, math.prod(shape))) if pooling == "flatten" else activation
