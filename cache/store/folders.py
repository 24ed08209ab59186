"""The folders of feature sets: listing them, their recipe.json, and when each was last used."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from pathlib import Path

from permafrost.cache.disk.orphans import list_folder
from permafrost.cache.disk.publish import make_folder, published
from permafrost.cache.errors import DamagedError
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, canonical_json

_log = logging.getLogger(__name__)

_DAY_S = 24 * 3600
_FOLDER_NAME = re.compile(r".+-[0-9a-f]{12}")


def mark_used(file: Path) -> None:
    """Note that a file of the cache, or the feature set in a folder of it, is used now.

    Where that cannot be written, gc cannot drop anything either.
    """
    with contextlib.suppress(OSError):
        os.utime(_find_clock(file))


def count_idle_days(file: Path) -> float:
    """Return the days since it was last used."""
    return (time.time() - _find_clock(file).stat().st_mtime) / _DAY_S


def _find_clock(file: Path) -> Path:
    """Return the file whose time of change says when a file or a feature set was last used."""
    return file / "recipe.json" if file.is_dir() else file


def list_set_folders(layout: CacheLayout) -> list[Path]:
    """List the folders of feature sets, also of those that hold nothing yet, sorted."""
    tops = [path for path in layout.root.iterdir() if _FOLDER_NAME.fullmatch(path.name)]
    # gc may have dropped one just now.
    return sorted(folder for top in tops for folder in list_folder(top) if folder.is_dir())


def name_set(folder: Path) -> str:
    """Return what a feature set's folder is called in its cache."""
    return f"{folder.parent.name}/{folder.name}"


def read_recipe(layout: CacheLayout, folder: Path) -> Recipe:
    """Read the recipe of a feature set's folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    DamagedError
        It is not in its canonical form, or belongs to another folder; without the path.
    """
    content = (folder / "recipe.json").read_bytes()
    try:
        text = content.decode()
        recipe: Recipe = json.loads(text)
        own_folder = layout.feature_set_folder(recipe)
        is_canonical = canonical_json(recipe) == text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"it is no recipe ({error})") from error
    if not is_canonical:
        raise DamagedError("it is not the canonical JSON of its recipe")
    if own_folder != folder:
        raise DamagedError(
            f"it is the recipe of another folder, {own_folder.parent.name}/{own_folder.name}"
        )
    return recipe


def open_feature_set_folder(layout: CacheLayout, recipe: Recipe) -> Path:
    """Create a feature set's folder with its ``recipe.json``, or check the one that is there.

    One with other content is written anew, of which the log warns; no row is in doubt, as each
    shard says itself which feature set it belongs to.
    """
    folder = layout.feature_set_folder(recipe)
    file = folder / "recipe.json"
    content = canonical_json(recipe).encode()
    found = file.read_bytes() if file.exists() else None
    if found != content:
        if found is not None:
            _log.warning("%s was damaged, and is written anew", file)
        make_folder(folder, shared=True)
        with published(file, shared=True) as temporary:
            temporary.write_bytes(content)
    return folder
