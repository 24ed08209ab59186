"""Where things lie in a cache folder, and which FORMAT they have.

To change the layout: raise FORMAT, teach `open_cache` to read or refuse the older numbers, and say
so in the README. A cache of a newer FORMAT is always refused.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from permafrost.cache.disk.orphans import is_temporary
from permafrost.cache.disk.publish import make_folder, published
from permafrost.cache.errors import DamagedError, NotACacheError
from permafrost.cache.store.recipe import Recipe, recipe_key

_log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Paths inside one cache folder."""

    root: Path

    @property
    def format_file(self) -> Path:
        """The FORMAT number, as JSON."""
        return self.root / "format.json"

    @property
    def index_file(self) -> Path:
        """The index, which may be deleted at any time."""
        return self.root / "index.sqlite"

    @property
    def leases_folder(self) -> Path:
        """Which rows are being computed now; it may be deleted when no run is going."""
        return self.root / "leases"

    @property
    def upkeep_lock(self) -> Path:
        """Held by whoever merges, drops or mends shards; empty, and made when first needed."""
        return self.root / "upkeep.lock"

    def feature_set_folder(self, recipe: Recipe) -> Path:
        """Return the folder of a recipe: ``vgg16-3f9c1a2b7d4e/block5_pool-avg``."""
        backbone = f"{_slug(recipe['backbone'])}-{recipe_key(recipe)[:12]}"
        return self.root / backbone / f"{_slug(recipe['layer'])}-{_slug(recipe['pooling'])}"


def open_cache(root: Path) -> CacheLayout:
    """Open a cache folder; create it when there is none.

    Raises
    ------
    NotACacheError
        `root` is a file, a folder with other things in it, or a cache of a newer FORMAT.
    """
    layout = CacheLayout(root)
    if root.exists() and not root.is_dir():
        raise NotACacheError(f"{str(root)!r} is a file, not a cache folder; name a new folder")
    if not layout.format_file.exists():
        _create(layout)
    _check_format(layout)
    return layout


def find_cache(root: Path) -> CacheLayout:
    """Open a cache folder that is there; nothing is created.

    Raises
    ------
    NotACacheError
        There is none, or one of a newer FORMAT.
    """
    layout = CacheLayout(root)
    if not layout.format_file.is_file():
        raise NotACacheError(f"there is no cache at {str(root)!r}; name one with --cache DIR")
    _check_format(layout)
    return layout


def _create(layout: CacheLayout) -> None:
    strange = layout.root.exists() and not all(map(is_temporary, layout.root.iterdir()))
    # Asked after the listing: another run may have made the cache just now, and this file first.
    if strange and not layout.format_file.exists():
        raise NotACacheError(
            f"{str(layout.root)!r} is not a cache: it has files but no format.json;"
            " name a new or empty folder with --cache"
        )
    make_folder(layout.root)
    with published(layout.format_file, shared=True) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT}), encoding="utf-8")


def _check_format(layout: CacheLayout) -> None:
    try:
        number = int(json.loads(layout.format_file.read_text(encoding="utf-8"))["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedError(
            f'{str(layout.format_file)!r} is damaged; it should hold {{"format": {FORMAT}}}'
        ) from error
    if number > FORMAT:
        raise NotACacheError(
            f"the cache {str(layout.root)!r} has format {number}, newer than this version's"
            f" {FORMAT}; update permafrost or name another folder with --cache"
        )


def _slug(name: object) -> str:
    """Make a folder name of any text; it is for people, the key tells sets apart."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(name)).strip(".-")[:80] or "unnamed"
