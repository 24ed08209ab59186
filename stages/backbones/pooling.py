"""Poolings: what is kept of a layer's activation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from permafrost.stages.errors import InputError

# What becomes of a map's positions: an array namespace (NumPy, or keras.ops on any backend and in
# any graph), maps of shape (n, *positions, channels) and the axes of the positions, to
# (n, channels). A new pooling is one more line here.
REDUCTIONS: Mapping[str, Callable[[Any, Any, tuple[int, ...]], Any]] = {
    "avg": lambda xp, maps, axes: xp.mean(maps, axis=axes),
    "max": lambda xp, maps, axes: xp.max(maps, axis=axes),
}
# What becomes of a sequence of tokens, shape (n, tokens, channels). Without ``+`` in their names,
# with which heads join layers.
TOKEN_POOLINGS = ("cls", "tokens", "cls_tokens")
# The class tokens of several blocks, side by side, as M. Caron et al., Emerging properties in
# self-supervised vision transformers (2021), probe them.
LAST_BLOCKS = "last4"
_N_LAST = 4
# As they are told; grid2 stands for every number of cells.
POOLINGS = (*REDUCTIONS, *TOKEN_POOLINGS, LAST_BLOCKS, "grid2", "flatten", "none")

_GRID = re.compile(r"grid([1-9][0-9]?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Which of the tokens of a layer are which.

    Attributes
    ----------
    n_class : int
        1 where the first is a class token, 0 where there is none.
    n_before : int
        Tokens before those of the patches: the class token, registers, that of distillation.
    blocks : tuple of str
        The last blocks of the network up to this layer, four if there are as many.
    """

    n_class: int
    n_before: int
    blocks: tuple[str, ...] = ()

    def check(self, layer: str, pooling: str, shape: tuple[int, ...]) -> None:
        """Raise InputError unless a layer whose output is of this shape has such tokens."""
        if len(shape) != 2 or shape[0] <= self.n_before:
            raise InputError(f"{layer!r} has no tokens for {pooling!r} (its output is {shape})")
        if pooling != "tokens" and not self.n_class:
            raise InputError(
                f"{layer!r} has no class token for {pooling!r}; take the mean of all its tokens"
                f" with '{layer}:tokens'"
            )
        if pooling == LAST_BLOCKS and len(self.blocks) < _N_LAST:
            raise InputError(
                f"{layer!r} has {len(self.blocks)} blocks up to it, and {LAST_BLOCKS!r} needs"
                f" {_N_LAST}; name a later layer"
            )


def count_channels(pooling: str, n_channels: int) -> int:
    """Return how many values a token pooling gives, of tokens of so many channels."""
    return {"cls_tokens": 2, LAST_BLOCKS: _N_LAST}.get(pooling, 1) * n_channels


def find_last_blocks(blocks: list[str], names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return, for each layer by name, the last blocks of a network up to it.

    Parameters
    ----------
    blocks, names : list of str
        Of the blocks, and of all layers, in the network's order.
    """
    last: dict[str, tuple[str, ...]] = {}
    done: tuple[str, ...] = ()
    for name in names:
        done = (*done, name)[-_N_LAST:] if name in blocks else done
        last[name] = done
    return last


def pool_tokens(xp: Any, sequences: list[Any], pooling: str, tokens: Tokens) -> Any:
    """Pool sequences of tokens.

    Parameters
    ----------
    xp : module
        As in `pool`.
    sequences : list of array or tensor, each of shape (n, tokens, channels)
        One; for `LAST_BLOCKS` those of the blocks.
    pooling : str
        One of `TOKEN_POOLINGS`, or `LAST_BLOCKS`.
    tokens : Tokens

    Returns
    -------
    array or tensor, shape (n, `count_channels`)
    """
    classes = [one[:, 0] for one in sequences]
    if pooling in ("cls", LAST_BLOCKS):
        return classes[0] if pooling == "cls" else xp.concatenate(classes, axis=-1)
    patches = xp.mean(sequences[0][:, tokens.n_before :], axis=1)
    return patches if pooling == "tokens" else xp.concatenate([*classes, patches], axis=-1)


def is_pooling(text: str) -> bool:
    """Tell whether a text is a pooling: one of `POOLINGS`, or a grid of another number."""
    return text in POOLINGS or find_grid(text) > 0


def is_reduction(pooling: str) -> bool:
    """Tell whether a pooling makes something else of a map than what it is of."""
    return pooling in (*REDUCTIONS, *TOKEN_POOLINGS) or find_grid(pooling) > 0


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
