"""``show --image X --backbone B --layers L``: what the layers of a network make of one image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.looking.drawing import PHOTO_SIDE, draw_grids
from permafrost.pipeline.looking.one_image import open_image, read_outputs
from permafrost.pipeline.looking.photos import show_photo
from permafrost.pipeline.options import FeatureOptions, RunOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.tables import Table
from permafrost.stages.backbones.layers import LayerSpec

N_CHANNELS = 16


def show_activations(
    image: Path, features: FeatureOptions, *, cache: Path, run: RunOptions, out: Path
) -> tuple[list[str | Table], dict[str, Any]]:
    """Draw the most active channels of some layers.

    Parameters
    ----------
    image : Path
    features : FeatureOptions
        The layers are looked at before they are pooled.
    cache : Path
    run : RunOptions
    out : Path
        The picture.

    Raises
    ------
    StageError, CacheError, PipelineError
        There is no such layer, or it has no positions.
    """
    found = open_image(image)
    with Index(open_cache(cache).index_file) as index:
        backbone = Backbone(replace(features, view=features.views[0]), index)
        names = list(dict.fromkeys(str(LayerSpec(spec.layer)) for spec in backbone.layers))
        size = backbone.card.size
    outputs = read_outputs(
        [(features, name) for name in names],
        found,
        cache=cache,
        run=run,
        scratch=out.absolute().parent,
    )
    grids, rows, told = [], [], []
    for name, output in zip(names, outputs, strict=True):
        output.check(name)
        maps = np.moveaxis(output.values.astype(np.float64), output.channel_axis, -1)
        strength = np.abs(maps).mean(axis=(0, 1))
        channels = np.argsort(-strength, kind="stable")[:N_CHANNELS]
        chosen = maps[..., channels]
        largest = chosen.max() if chosen.max() > 0 else 1.0
        shape = "x".join(map(str, output.values.shape))
        title = f"{name}, {shape}: the {len(channels)} most active channels, 0 to {largest:.3g}"
        grids.append((title, np.clip(chosen / largest, 0, 1), channels.tolist()))
        rows.append((name, shape, f"{largest:.4g}", " ".join(map(str, channels))))
        told.append(
            {
                "layer": name,
                "shape": list(output.values.shape),
                "channels": channels.tolist(),
                "means": strength[channels].tolist(),
            }
        )
    photo = show_photo(found.data, features, size=size, side=PHOTO_SIDE, box=found.box)
    draw_grids(photo, grids, out)
    header = ("layer", ">shape", ">largest", "most active channels")
    parts: list[str | Table] = [f"{image}", Table(header=header, rows=rows), f"→ {out}"]
    return parts, {"thing": str(image), "what": "image", "layers": told, "picture": str(out)}
