"""``compact``: few large shards instead of many small ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.shards import format as shard_format
from permafrost.cache.store.folders import list_set_folders, name_set
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.upkeep.compact import Compaction, compact_set
from permafrost.cache.upkeep.survey import is_empty, survey_set
from permafrost.pipeline.units import count, describe_bytes
from permafrost.pipeline.upkeep.shared import (
    RENEW_VIEWS,
    Advance,
    forget_shards,
    show_sets,
    wait_for_turn,
)


@dataclass(slots=True, kw_only=True)
class CompactResult:
    """What became of each feature set, by its name; and what was left as it is, and why."""

    done: dict[str, Compaction] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            "feature_sets": len(self._merged),
            "shards_before": sum(one.shards_before for one in self.done.values()),
            "shards_after": sum(one.shards_after for one in self.done.values()),
            "bytes": sum(one.n_bytes for one in self.done.values()),
            "skipped": self.skipped,
        }

    def describe(self) -> str:
        """Return the figures as a person wants them, a line for each feature set that changed."""
        lines = [
            f"{name}: {count(one.shards_before, 'shard')} → {one.shards_after},"
            f" {describe_bytes(one.n_bytes)} written"
            for name, one in self._merged.items()
        ]
        last = RENEW_VIEWS if self._merged else "nothing to compact"
        return "\n".join([*lines, *self.skipped, last])

    @property
    def _merged(self) -> dict[str, Compaction]:
        return {name: one for name, one in self.done.items() if one.n_bytes}


def compact(root: Path) -> CompactResult:
    """Merge the small shards of each feature set, one set after the other.

    Raises
    ------
    CacheError
        There is no cache.
    OSError
        There is no room; all rows are still there.
    """
    layout = find_cache(root)
    result = CompactResult()
    with wait_for_turn(layout), show_sets(layout) as advance:
        for folder in list_set_folders(layout):
            remove_orphans(folder)
            if not is_empty(folder):
                _compact(layout, folder, result, advance)
            advance(folder)
    return result


def _compact(layout: CacheLayout, folder: Path, result: CompactResult, advance: Advance) -> None:
    try:
        survey = survey_set(layout, folder)
        done = compact_set(
            survey,
            largest_bytes=shard_format.SHARD_BYTES,
            advance=lambda n_shards: advance(folder, n_shards=n_shards),
        )
    except (DamagedError, MissingShardError) as error:
        result.skipped.append(f"{error}; left as it is: see verify and repair")
        return
    if done.n_bytes:
        forget_shards(layout, survey)
    result.done[name_set(folder)] = done
