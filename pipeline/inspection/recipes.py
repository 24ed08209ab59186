"""Recipes as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from permafrost.cache.store.recipe import Recipe
from permafrost.stages.backbones.preprocessing import VIEWS

# The main points, as the options are called.
_POINTS = (
    *("backbone", "size", "resize", "resize_mode", "orient", "decode", "preprocess", "view"),
    *("engine", "precision", "dtype"),
)


def name_numbers(recipe: Recipe) -> str:
    """Return what computed the numbers, and how they are kept: ``tensorflow float32``."""
    engine, precision = recipe.get("engine", "decoded"), recipe.get("precision", "")
    dtype, view = recipe.get("dtype", ""), recipe.get("view", VIEWS[0])
    words = [engine, precision, dtype if dtype != precision else ""]
    words += [view] if view != VIEWS[0] else []
    return " ".join(str(word) for word in words if word)


def list_points(recipes: Iterable[Recipe]) -> list[tuple[str, str]]:
    """Return the main points of recipes, each with all that it is in them."""
    found = list(recipes)
    points = []
    for name in _POINTS:
        values = dict.fromkeys(_write(one[name]) for one in found if name in one)
        if values:
            points.append((name.replace("_", " "), ", ".join(values)))
    return points


def _write(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
