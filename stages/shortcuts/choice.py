"""Which faster ways a program takes to compute the same activations, rounded otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

# Puts an array into the graph that is being built, as a tensor.
Hold = Callable[[np.ndarray], Any]

# Of a layer's largest value. A tenth of what the numbers may be off from Keras': one batch is not
# all images. It turns down whole maps at the end of MobileNet x0.25, which are off by up to 3e-4 on
# photos, and takes them pooled: 5e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What a program may do otherwise than Keras.

    Attributes
    ----------
    fold : bool
        Normalize within convolutions, by `stages.shortcuts.batchnorm`.
    winograd_axes : int
        On how many axes to convolve by `stages.shortcuts.winograd`, where that gains; 0 for none.
    precision : str
        In which layers compute, by `stages.shortcuts.half_precision`.
    """

    fold: bool
    winograd_axes: int
    precision: str = "float32"


NO_SHORTCUTS = Shortcuts(fold=False, winograd_axes=0)
WAYS = PLAIN, FOLDED, WINOGRAD = "plain", "folded", "winograd"


def find_shortcuts(way: str, precision: str) -> Shortcuts:
    """Return what a way of computing takes: ``"plain"``, ``"folded"`` or ``"winograd"``.

    In half precision, filtering on both axes would lose too many digits. ``"float16"``, which is
    for GPUs, is left to the engine.
    """
    n_axes = 0 if way != WINOGRAD else 2 if precision == "float32" else 1
    own = "float32" if precision == "float16" else precision
    return Shortcuts(fold=way != PLAIN, winograd_axes=n_axes, precision=own)


def list_ways(precision: str, *, normalizes: bool, on_gpu: bool) -> tuple[str, ...]:
    """List the ways that may be the fastest; the first is what little work is done with.

    Parameters
    ----------
    precision : str
    normalizes : bool
        Whether the network normalizes its activations. Then a way may amplify rounding in float32,
        and all are compared with the first; and it has many small convolutions, for which
        Winograd's filtering gains little.
    on_gpu : bool
        A GPU's library chooses for itself how it convolves.
    """
    convolving = () if on_gpu else (WINOGRAD,)
    if not normalizes:
        return (*convolving, PLAIN)
    if precision == "float32":
        return (PLAIN, *convolving, FOLDED)
    return (FOLDED, *(convolving or (PLAIN,)))


def simplify(way: str, differing: Collection[str]) -> str:
    """Return the simplest way that computes what this one does, in a network of so many ways."""
    if way == WINOGRAD and WINOGRAD not in differing:
        way = FOLDED
    return way if way in differing else PLAIN
