"""``repair``: mend what ``verify`` finds; computed anew is no more than what is damaged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError, DamagedError
from cache.examine import SetExam, ShardExam, examine_set, list_set_folders
from cache.files import remove_orphans, sync
from cache.index import Index
from cache.key import Recipe, recipe_key
from cache.layout import CacheLayout, find_cache, open_feature_set_folder
from cache.rebuild import Remains, read_format, rebuild_shard
from cache.shard import RowFormat, shard_name
from cache.store import FeatureSet, split_digests
from cache.verify import Damage, count_shards, list_damage_beside
from pipeline.options import RunOptions
from pipeline.prepare import recall_recipe
from pipeline.progress import show_progress
from pipeline.recompute import Recomputer

_READ_BYTES = 1 << 20
_REPEAT = "repeat the extract that wrote it"


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row that could not be computed again: it is missing now, as if it had never been."""

    file: Path
    digest: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Repairs:
    """What ``repair`` found and did, in the cache at `root`.

    Attributes
    ----------
    root : Path
    damaged : list of Damage
        Files, and what was wrong with each.
    done : list of Damage
        Files, and what was done to each.
    recomputed : int
        Rows.
    dropped : list of DroppedRow
    left : list of Damage
        Files that are as they were, and what to do about each.
    """

    root: Path
    damaged: list[Damage] = field(default_factory=list)
    done: list[Damage] = field(default_factory=list)
    recomputed: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)
    left: list[Damage] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status that says whether all is well now."""
        return DamagedError.exit_status if self.left else 0
