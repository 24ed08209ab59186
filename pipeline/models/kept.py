"""Which layers of many a head goes by, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import JOINED_BY
from permafrost.stages.heads import EstimatorHead, Head
from permafrost.stages.heads.head2toe.head import count_kept

# More layers than this are counted.
_SHOWN = 4


def shorten_layers(layers: str) -> str:
    """Name the first of many layers, and how many there are."""
    names = layers.split(JOINED_BY)
    return layers if len(names) <= _SHOWN else f"{names[0]} and {len(names) - 1} other layers"


def list_kept(
    head: Head, layers: Sequence[StoredLayer], widths: Sequence[int]
) -> list[dict[str, object]]:
    """Tell how many features of each layer a head goes by."""
    counts = count_kept(cast(EstimatorHead, head), widths)
    return [
        {"layer": str(layer.spec), "kept": n_kept, "of": width}
        for layer, n_kept, width in zip(layers, counts, widths, strict=True)
    ]


def describe_kept(kept: Sequence[Mapping[str, Any]]) -> str:
    """Write which layers' features a head goes by, most of them first."""
    total = sum(one["kept"] for one in kept)
    ranked = sorted(kept, key=lambda one: -one["kept"])
    named = [f"{one['layer']} {one['kept']} of {one['of']}" for one in ranked if one["kept"]]
    more = f", and {len(named) - _SHOWN} layers more" if len(named) > _SHOWN else ""
    return f"  keeps {total} features: {', '.join(named[:_SHOWN])}{more}"
