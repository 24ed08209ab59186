"""A features.h5 or a manifest as tables: its rows, and what they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from permafrost.cache.views.features import Features
from permafrost.cache.views.state import LayerState, describe_layers
from permafrost.pipeline.extraction.results import read_failures
from permafrost.pipeline.extraction.summary import failures_path
from permafrost.pipeline.inspection.recipes import list_points
from permafrost.pipeline.tables import Table, list_pairs
from permafrost.pipeline.units import count
from permafrost.stages.datasets.manifest import read_manifest
from permafrost.stages.datasets.split_names import SPLITS

_SHOWN = 20
_NONE = "(none)"


def show_features(file: Path) -> tuple[list[str | Table], dict[str, Any]]:
    """Describe a features.h5, reading no values."""
    n_images, layers = describe_layers(file)
    with Features(file) as features:
        labels, splits = features.labels, features.splits
        recipes = {one.layer: features.recipe(one.layer) for one in layers}
        root, place, columns = features.root, features.place, features.columns
    failed = read_failures(file)
    parts: list[str | Table] = [
        f"{file}: {count(n_images, 'image')}, {count(len(layers), 'layer')}",
        Table(header=("layer", ">shape", "dtype", "values"), rows=list(map(_list_cells, layers))),
        "",
        count_rows(labels, splits),
        "",
        list_pairs(
            [("images", place), *list_points(recipes.values()), ("columns", ", ".join(columns))]
        ),
    ]
    if failed:
        parts += ["", f"{count(len(failed), 'image')} could not be read: {failures_path(file)}"]
        parts += [f"  {path}: {reason}" for path, reason in [*failed.items()][:3]]
    figures = {"images": n_images, "layers": [asdict(one) for one in layers], "root": root}
    figures |= count_columns(labels, splits) | {"columns": columns, "recipes": recipes}
    return parts, figures | {"failed": len(failed)}


def _list_cells(layer: LayerState) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.shape))
    return layer.layer, shape, layer.dtype, layer.describe()


def show_manifest(file: Path) -> tuple[list[str | Table], dict[str, Any]]:
    """Describe a manifest, or any table of images."""
    rows = read_manifest(file)
    n_hashed = int(rows.digests.known.sum())
    parts: list[str | Table] = [
        f"{file}: {count(len(rows), 'image')}, {n_hashed:,} of them with a digest",
        count_rows(list(rows.labels), rows.splits),
        "",
        list_pairs([("images", rows.root), ("columns", ", ".join(rows.extra))]),
    ]
    figures = {"images": len(rows), "root": rows.root, "hashed": n_hashed}
    return parts, figures | count_columns(rows.labels, rows.splits) | {"columns": list(rows.extra)}


def count_columns(labels: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how many rows there are of each label, and of each split."""
    return {
        name: dict(sorted(Counter(column).items()))
        for name, column in (("labels", labels), ("splits", splits))
    }


def count_rows(labels: Sequence[str], splits: Sequence[str]) -> Table:
    """Return a table of rows by label and split; the labels with the most rows first."""
    cells = Counter(zip(labels, splits, strict=True))
    by_label = Counter(labels)
    order = [name for name in (*SPLITS, "") if name in set(splits)]
    order += sorted(set(splits) - set(order))
    ranked = sorted(by_label, key=lambda name: (-by_label[name], name))
    rows = [_write_row(name or _NONE, [cells[name, one] for one in order]) for name in ranked]
    if len(rows) > _SHOWN:
        rows = [*rows[:_SHOWN], (f"… {len(rows)} in all", *[""] * (len(order) + 1))]
    totals = Counter(splits)
    rows.append(_write_row("all", [totals[one] for one in order]))
    header = ("label", *(f">{one or _NONE}" for one in order), ">all")
    return Table(header=header, rows=rows)


def _write_row(name: str, counts: Sequence[int]) -> tuple[str, ...]:
    return (name, *(f"{n:,}" if n else "" for n in counts), f"{sum(counts):,}")
