"""``verify --sample``: compute a share of the rows once more, and compare."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import CacheError
from permafrost.cache.shards.follow import follow_rows
from permafrost.cache.shards.gather import StoredRows
from permafrost.cache.shards.locations import NO_DIGESTS, RowTable, split_digests
from permafrost.cache.shards.reader import list_shards, read_digests
from permafrost.cache.store.folders import list_set_folders, read_recipe
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.store.records import Drift, read_record
from permafrost.cache.upkeep.verify import Damage
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.upkeep.recompute import RecomputedRow, recompute

# How far a row may be off, relative to the largest value: what is promised of float32; half
# precision rounds to 8 or 11 bits after every layer, and another processor, or a batch of another
# size, does so elsewhere. Another image or another layer is off by a tenth and more.
_TOLERANCES = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
# Storing in float16 rounds once more, to 11 bits: two values that differ little become neighbours.
_STORED_AS_HALF = 2e-3
# Extraction measured, on two images, how far an image alone is from the same one in a batch. Other
# images may be this many times further off.
_DRIFTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOptions:
    """Which rows are computed again, and how.

    `share` is the part of the rows of each feature set, from 0 to 1, at least one row of each;
    `seed` decides which ones.
    """

    share: float
    seed: int
    run: RunOptions

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise PipelineError(
                f"--sample {self.share:g}: write a share of the rows, as 0.01; 1 for all of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSample:
    """What was compared of one feature set.

    `max_error` is the largest difference, relative to the largest value, both absolute; a row with
    more than `tolerance` counts as damaged.
    """

    folder: str
    rows: int
    max_error: float
    tolerance: float


@dataclass(slots=True, kw_only=True)
class Sample:
    """What came of the comparison; `skipped` counts rows not compared, by the reason why."""

    sets: list[SetSample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: list[Damage] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object; the damage stands with all other."""
        return {
            "rows": sum(one.rows for one in self.sets),
            "skipped": dict(self.skipped),
            "sets": [asdict(one) for one in self.sets],
        }

    def describe(self) -> list[str]:
        """Return a line for each set, and for each reason why rows were not compared."""
        lines = [
            f"{one.folder}: {one.rows} rows computed again, at most {one.max_error:.1e} of the"
            f" largest value off"
            for one in self.sets
        ]
        return lines + [f"{n} rows not compared: {why}" for why, n in self.skipped.items()]


@dataclass(slots=True, kw_only=True)
class _Comparison:
    """One feature set, the rows of it that were chosen, and how far each is off."""

    folder: Path
    recipe: Recipe
    stored: StoredRows
    rows: dict[bytes, int]
    largest: float = 0.0
    differences: dict[bytes, float] = field(default_factory=dict)
    images: dict[bytes, str] = field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        half = _STORED_AS_HALF if self.recipe["dtype"] == "float16" else 0.0
        drift = read_record(self.folder, Drift)
        drifted = _DRIFTS * drift.max_error if drift else 0.0
        precision = self.recipe.get("precision", "float32")  # images have none
        return max(_TOLERANCES[str(precision)] + half, drifted)

    def add(self, row: RecomputedRow) -> None:
        """Compare a row with what is stored of it."""
        values = row.values
        if values is None:
            return
        found = np.empty((1, *values.shape), str(self.recipe["dtype"]))
        place = np.array([self.rows[row.digest]])
        self.stored = follow_rows(self.stored, place, found)
        self.largest = max(self.largest, float(np.abs(values).max(initial=0)))
        difference = np.abs(found[0].astype(np.float32) - values)
        self.differences[row.digest] = float(difference.max(initial=0))
        if difference.max(initial=0) > 0:  # only damaged rows need the names of their images
            self.images[row.digest] = row.image

    def sum_up(self, root: Path) -> SetSample:
        largest = self.largest or 1.0
        return SetSample(
            folder=str(self.folder.relative_to(root)),
            rows=len(self.differences),
            max_error=max(self.differences.values()) / largest,
            tolerance=self.tolerance,
        )

    def list_damage(self) -> list[Damage]:
        largest = self.largest or 1.0
        locations = self.stored.locations
        return [
            Damage(
                file=self.folder / locations.shards[locations.shard[self.rows[digest]]],
                reason=f"its row of {self.images[digest]!r} is {difference / largest:.1e} of the"
                " largest value off; move the file away and repeat extract",
            )
            for digest, difference in self.differences.items()
            if not difference <= self.tolerance * largest
        ]


def sample_rows(layout: CacheLayout, options: SampleOptions) -> Sample:
    """Compute some rows of every feature set again, of the same images where sets share them."""
    chosen: dict[str, _Comparison] = {}
    for folder in list_set_folders(layout):
        # `verify_cache` names what is missing or damaged.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, CacheError):
            recipe = read_recipe(layout, folder)
            chosen[recipe_key(recipe)] = _choose_rows(folder, recipe, options)
    found = Sample()
    wanted = {key: list(one.rows) for key, one in chosen.items()}
    n_rows = sum(map(len, wanted.values()))
    with (
        Index(layout.index_file) as index,
        show_progress(n_rows, unit="rows", note=lambda: "computing them again") as advance,
    ):
        for row in recompute(layout, index, options.run, wanted):
            advance(1)
            try:
                chosen[row.key].add(row)
            except CacheError as error:
                found.skipped[str(error)] += 1
            else:
                found.skipped.update([row.reason] if row.reason else [])
    compared = [one for one in chosen.values() if one.differences]
    found.sets = [one.sum_up(layout.root) for one in compared]
    found.damaged = [damage for one in compared for damage in one.list_damage()]
    return found


def _choose_rows(folder: Path, recipe: Recipe, options: SampleOptions) -> _Comparison:
    key = recipe_key(recipe)
    shards: list[tuple[str, NDArray[np.uint8]]] = []
    for path, _ in sorted(list_shards(folder)):
        with contextlib.suppress(CacheError):
            shards.append((path.name, read_digests(path, key)))
    digests = np.unique(np.concatenate([NO_DIGESTS, *(rows for _, rows in shards)]), axis=0)
    # Digests are as good as random: those next to a random one are too, and the same in every set.
    words = np.ascontiguousarray(digests).view(np.uint64)[:, 0]
    nearness = words ^ np.random.default_rng(options.seed).integers(0, 1 << 64, dtype=np.uint64)
    n_rows = min(len(digests), max(1, round(options.share * len(digests))))
    rows = digests[np.sort(np.argsort(nearness)[:n_rows])]
    stored = StoredRows(
        folder=folder, key=key, locations=RowTable(shards).locate(rows), digests=rows
    )
    numbers = {digest: number for number, digest in enumerate(split_digests(rows))}
    return _Comparison(folder=folder, recipe=recipe, stored=stored, rows=numbers)
