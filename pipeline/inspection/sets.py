"""A cache as a table: its feature sets, and what was measured of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from permafrost.cache.errors import DamagedError
from permafrost.cache.shards.reader import list_shards
from permafrost.cache.store.folders import count_idle_days, list_set_folders, name_set, read_recipe
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.store.records import Drift, Parity, read_record
from permafrost.cache.upkeep.survey import is_empty, survey_set
from permafrost.pipeline.inspection.recipes import name_numbers
from permafrost.pipeline.tables import Table
from permafrost.pipeline.units import count, describe_bytes, describe_days

_HEADER = ("feature set", ">rows", ">shards", ">size", "used", "numbers", ">error", ">drift")


def show_cache(root: Path) -> tuple[list[str | Table], dict[str, Any]]:
    """Describe a cache, reading no values."""
    layout = find_cache(root)
    sets = [_describe(layout, folder) for folder in list_set_folders(layout)]
    n_bytes = sum(one["bytes"] for one in sets)
    parts: list[str | Table] = [
        f"{root}: {count(len(sets), 'feature set')}, {describe_bytes(n_bytes)}"
    ]
    if sets:
        parts.append(Table(header=_HEADER, rows=[_list_cells(one) for one in sets]))
    parts += [f"  {one['damage']}; see verify and repair" for one in sets if one["damage"]]
    if any(one["parity"] for one in sets):
        parts.append("error: the largest against the reference in float32, relative")
    if any(one["drift"] for one in sets):
        parts.append("drift: how far an image alone and in a batch differ, relative")
    return parts, {"feature_sets": sets, "bytes": n_bytes}


def _describe(layout: CacheLayout, folder: Path) -> dict[str, Any]:
    sizes = [path.stat().st_size for path, _ in list_shards(folder)]
    parity, drift = read_record(folder, Parity), read_record(folder, Drift)
    found: dict[str, Any] = {"name": name_set(folder), "shards": len(sizes), "bytes": sum(sizes)}
    found |= {
        "rows": None,
        "idle_days": None,
        "recipe": None,
        "parity": parity and parity.max_error,
        "drift": drift and drift.max_error,
        "damage": None,
    }
    if is_empty(folder):
        return found | {"rows": 0}
    try:
        survey = survey_set(layout, folder)
    except DamagedError as error:
        return found | {"damage": str(error)}
    return found | {
        "rows": sum(len(shard.digests) for shard in survey.shards),
        "idle_days": round(count_idle_days(folder), 3),
        "recipe": read_recipe(layout, folder),
    }


def _list_cells(one: dict[str, Any]) -> tuple[str, ...]:
    recipe, days = one["recipe"], one["idle_days"]
    errors = ["" if one[name] is None else f"{one[name]:.0e}" for name in ("parity", "drift")]
    return (
        one["name"],
        "damaged" if one["damage"] else f"{one['rows']:,}",
        f"{one['shards']:,}",
        describe_bytes(one["bytes"]),
        "" if days is None else describe_days(days) + (" ago" if days >= 1 else ""),
        "" if recipe is None else name_numbers(recipe),
        *errors,
    )
