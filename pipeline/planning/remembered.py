"""What a cache remembers between runs: failures, rates, recipes, views, measurements of layers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, canonical_json
from permafrost.cache.store.records import Record, read_record
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.missing import LayerPlan


def recall_failures(index: Index, decoding: str, keys: Iterable[str]) -> dict[bytes, str]:
    """Return digest → reason of images that have no row.

    They cannot be decoded in the way that `decoding` names, or the network gave values for them
    that a feature set of `keys` cannot store.
    """
    failures: dict[bytes, str] = {}
    for kind in (decoding, *keys):
        failures |= index.failures(kind)
    return failures


def recall_records(layers: Iterable[LayerPlan], kind: type[Record]) -> dict[str, Record]:
    """Return what was measured of each layer, by its spec; nothing of those never measured."""
    found = {str(layer.spec): read_record(layer.features.folder, kind) for layer in layers}
    return {layer: record for layer, record in found.items() if record is not None}


def recall_rate(index: Index, keys: Iterable[str], *, on_workers: bool = False) -> float | None:
    """Return the images/s that feature sets were last computed at together, if they were.

    Of this machine, or of one worker of a cluster.
    """
    known = index.memo(_rate_key(keys, on_workers=on_workers))
    return float(known) if known else None


def _rate_key(keys: Iterable[str], *, on_workers: bool) -> str:
    return " ".join(["images/s", *["worker"] * on_workers, *sorted(keys)])


def remember_rate(
    index: Index, keys: Iterable[str], images_per_second: float, *, on_workers: bool = False
) -> None:
    """Remember how fast feature sets were computed, for the next plan; see `recall_rate`."""
    index.add_memo(_rate_key(keys, on_workers=on_workers), f"{images_per_second:.4g}")


def recall_view(index: Index, out: Path) -> str | None:
    """Return what `write_view` returned when it last wrote this file; None where nobody knows."""
    return index.memo(_view_key(out))


def remember_view(index: Index, out: Path, mark: str) -> None:
    """Remember what `write_view` returned, so that the next run need not write the same again."""
    index.add_memo(_view_key(out), mark)


def _view_key(out: Path) -> str:
    # A digest: the name of a file may hold what is no text to SQLite.
    return f"view {hashlib.sha256(os.fsencode(out.absolute())).hexdigest()}"


def remember_sets(
    index: Index, features: FeatureOptions, layout: CacheLayout, layers: Sequence[LayerPlan]
) -> None:
    """Remember each feature set's recipe and how it was asked for: what mending and sampling take.

    A recipe.json that is damaged is written anew.
    """
    for layer in layers:
        with contextlib.suppress(OSError):  # A cache that is only read stays as it is.
            if layer.features.folder.is_dir():
                open_feature_set_folder(layout, layer.recipe)
        key = layer.features.key
        memos = {
            f"origin {key}": replace(
                features, layers=(str(layer.spec.without_view),), view=layer.view
            ).to_json(),
            f"recipe {key}": canonical_json(layer.recipe),
        }
        for name, value in memos.items():
            if index.memo(name) != value:
                index.add_memo(name, value)


def recall_recipe(index: Index, key: str) -> Recipe | None:
    """Return the recipe of a feature set; None where it is not known."""
    text = index.memo(f"recipe {key}")
    return None if text is None else json.loads(text)


def recall_origin(index: Index, key: str) -> FeatureOptions | None:
    """Return how a feature set was asked for, its own layer alone; None where that is not known.

    Raises
    ------
    PipelineError
        Keras is set to another backend.
    """
    origin = index.memo(f"origin {key}")
    try:
        return None if origin is None else FeatureOptions.from_json(origin)
    except ValueError:
        return None
