"""Poolings: what is kept of a layer's activation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

# What becomes of a map's positions: an array namespace (NumPy, or keras.ops on any backend and in
# any graph), maps of shape (n, *positions, channels) and the axes of the positions, to
# (n, channels). A new pooling is one more line here.
REDUCTIONS: Mapping[str, Callable[[Any, Any, tuple[int, ...]], Any]] = {
    "avg": lambda xp, maps, axes: xp.mean(maps, axis=axes),
    "max": lambda xp, maps, axes: xp.max(maps, axis=axes),
}
# As they are told; grid2 stands for every number of cells.
POOLINGS = (*REDUCTIONS, "grid2", "flatten", "none")

_GRID = re.compile(r"grid([1-9][0-9]?)")


def is_pooling(text: str) -> bool:
    """Tell whether a text is a pooling: one of `POOLINGS`, or a grid of another number."""
    return text in POOLINGS or find_grid(text) > 0


def is_reduction(pooling: str) -> bool:
    """Tell whether a pooling makes something else of a map than what it is of."""
    return pooling in REDUCTIONS or find_grid(pooling) > 0


def find_grid(pooling: str) -> int:
    """Return the cells of ``grid2`` along each axis of positions; 0 for what is no grid."""
    found = _GRID.fullmatch(pooling)
    return int(found[1]) if found else 0


def cut_cells(size: int, n_cells: int) -> list[slice]:
    """Cut an axis into cells that differ by at most one position.

    Cell i is from floor(i size / n) to ceil((i + 1) size / n), as in PyTorch's AdaptiveAvgPool2d:
    where n does not divide the size, neighbours share a position.
    """
    return [slice(i * size // n_cells, -(-(i + 1) * size // n_cells)) for i in range(n_cells)]


def _average_cells(xp: Any, maps: Any, axes: tuple[int, ...], n_cells: int) -> Any:
    """Average the cells of a grid; what they are of stays in place, the axes becoming shorter."""
    for axis in axes:
        before = (slice(None),) * axis
        cells = [
            xp.mean(maps[(*before, cut)], axis=axis, keepdims=True)
            for cut in cut_cells(maps.shape[axis], n_cells)
        ]
        maps = xp.concatenate(cells, axis=axis)
    return maps


def pool(xp: Any, activation: Any, pooling: str, *, channel_axis: int) -> Any:
    """Pool activations.

    Parameters
    ----------
    xp : module
        ``keras.ops`` or ``numpy``, whichever the activations are of.
    activation : array or tensor, shape (n, *shape)
    pooling : str
        One for which `is_pooling` holds.
    channel_axis : int
        Of a map, the batch's axis counted; -1 for the last.

    Returns
    -------
    array or tensor
        Shape (n, channels) for those of `REDUCTIONS`, (n, values) for ``"flatten"``, for a grid
        (n, cells × channels), the channels last, and the activation itself for ``"none"``.
    """
    shape = tuple(activation.shape[1:])
    channels = channel_axis % (len(shape) + 1)
    axes = tuple(axis for axis in range(1, len(shape) + 1) if axis != channels)
    if pooling in REDUCTIONS:
        return REDUCTIONS[pooling](xp, activation, axes)
    if find_grid(pooling):
        cells = xp.moveaxis(_average_cells(xp, activation, axes, find_grid(pooling)), channels, -1)
        return xp.reshape(cells, (-1, math.prod(cells.shape[1:])))
    return xp.reshape(activation, (-1, math.prod(shape))) if pooling == "flatten" else activation
