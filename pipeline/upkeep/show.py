"""``show``: what a features.h5 or a cache is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from permafrost.cache.shards.reader import list_shards
from permafrost.cache.store.folders import list_set_folders
from permafrost.cache.store.layout import find_cache
from permafrost.cache.views.state import LayerState, describe_layers
from permafrost.pipeline.upkeep.shared import count, describe_bytes, name_set


def show(thing: Path) -> tuple[str, dict[str, Any]]:
    """Describe a file of features, or a cache folder.

    Returns
    -------
    str
        For a person.
    dict
        As JSON.

    Raises
    ------
    CacheError
        It is neither.
    """
    return _show_cache(thing) if thing.is_dir() else _show_features(thing)


def _show_features(file: Path) -> tuple[str, dict[str, Any]]:
    n_images, layers = describe_layers(file)
    lines = [f"{file}: {count(n_images, 'image')}, {count(len(layers), 'layer')}"]
    lines += [
        f"  {one.layer}  {'x'.join(map(str, one.shape))} {one.dtype}, {explain(one)}"
        for one in layers
    ]
    told = {"thing": str(file), "what": "features", "images": n_images}
    return "\n".join(lines), told | {"layers": [asdict(one) for one in layers]}


def explain(layer: LayerState) -> str:
    """Say what a layer is, what it needs, and whether that is there."""
    if layer.folder is None:
        return f"{layer.kind}: needs no cache"
    there = "all there"
    if not layer.is_whole:
        there = f"{layer.shards_there} there; repeat extract, or write it with --materialize"
    return f"{layer.kind}: needs {count(layer.shards, 'shard')} in {layer.folder}, {there}"


def _show_cache(root: Path) -> tuple[str, dict[str, Any]]:
    sets, lines = [], []
    for folder in list_set_folders(find_cache(root)):
        sizes = [path.stat().st_size for path, _ in list_shards(folder)]
        sets.append({"name": name_set(folder), "shards": len(sizes), "bytes": sum(sizes)})
        held = f"{count(len(sizes), 'shard')}, {describe_bytes(sum(sizes))}"
        lines.append(f"  {name_set(folder)}  {held}")
    lines.insert(0, f"{root}: {count(len(sets), 'feature set')}")
    return "\n".join(lines), {"thing": str(root), "what": "cache", "feature_sets": sets}
