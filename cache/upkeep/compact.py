"""Merge the small shards of a feature set into few large ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.upkeep.rewrite import Part, write_parts
from permafrost.cache.upkeep.survey import SetSurvey, StoredShard


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What became of a feature set: shards before and after, and bytes that were written."""

    shards_before: int
    shards_after: int
    n_bytes: int


def compact_set(
    survey: SetSurvey, *, largest_bytes: int, advance: Callable[[int], None] = lambda _: None
) -> Compaction:
    """Merge shards into such of up to `largest_bytes`, before compression.

    The new one is there before the old ones go. Done again, nothing is left to do. `advance` is
    told the number of shards that were just dealt with.

    Raises
    ------
    DamagedError, OSError
        As `write_parts` does; what was merged before stays merged.
    """
    remove_orphans(survey.folder)
    n_bytes = n_after = 0
    for group in plan_groups(survey.shards, largest_bytes=largest_bytes):
        if len(group) > 1:
            n_bytes += _merge(survey, group)
        n_after += 1
        advance(len(group))
    return Compaction(shards_before=len(survey.shards), shards_after=n_after, n_bytes=n_bytes)


def plan_groups(
    shards: Sequence[StoredShard], *, largest_bytes: int
) -> Iterator[list[StoredShard]]:
    """Yield the shards that become one, or stay what they are if alone.

    They are taken in the order in which they were computed, which is that of a dataset's rows: its
    rows then follow each other in the merged shards, and a view of it has few pieces. Shards of
    different compressions are not mixed.
    """
    ordered = sorted(shards, key=lambda one: (one.row.compression, one.time_ns, one.path.name))
    for _, same in itertools.groupby(ordered, key=lambda one: one.row.compression):
        yield from _fill_up(list(same), largest_bytes)


def _fill_up(shards: list[StoredShard], largest_bytes: int) -> Iterator[list[StoredShard]]:
    """Cut shards into groups; each takes the next as long as their different rows fit."""
    most = max(1, largest_bytes // max(1, shards[0].row.row_bytes))
    numbers = np.unique(np.concatenate([one.names for one in shards]), return_inverse=True)[1]
    cuts = np.cumsum([len(one.digests) for one in shards])[:-1]
    # The group that each row is in by now: a row may be there twice, after a kill for example.
    group_of = np.full(len(numbers), -1, np.int64)
    group: list[StoredShard] = []
    n_rows = n_groups = 0
    for shard, rows in zip(shards, np.split(numbers, cuts), strict=True):
        n_new = len(np.unique(rows[group_of[rows] != n_groups]))
        if group and n_rows + n_new > most:
            yield group
            group, n_rows, n_groups = [], 0, n_groups + 1
            n_new = len(np.unique(rows))
        group.append(shard)
        group_of[rows] = n_groups
        n_rows += n_new
    yield group


def _merge(survey: SetSurvey, group: Sequence[StoredShard]) -> int:
    """Make one shard of several and return its bytes."""
    merged = write_parts(survey, list(_drop_repeats(group)))
    n_bytes = merged.stat().st_size
    for shard in group:
        # After a kill, one of them may be the merged shard already.
        if shard.path != merged:
            shard.path.unlink(missing_ok=True)
    return n_bytes


def _drop_repeats(group: Sequence[StoredShard]) -> Iterator[Part]:
    starts = np.cumsum([0, *(len(one.digests) for one in group)])
    names = np.concatenate([one.names for one in group])
    first: NDArray[np.int64] = np.sort(np.unique(names, return_index=True)[1])
    for shard, start, rows in zip(
        group, starts, np.split(first, np.searchsorted(first, starts[1:-1])), strict=False
    ):
        if len(rows):
            yield Part(shard=shard, rows=rows - start)
