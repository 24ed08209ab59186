"""``repair``: mend a cache file by file, so that a kill at any point leaves it usable."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.publish import sync
from permafrost.cache.errors import CacheError, UnstorableError
from permafrost.cache.shards.format import RowFormat, as_storable, shard_name
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.shards.reader import read_format
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import list_set_folders, open_feature_set_folder
from permafrost.cache.store.index import Index, IndexedShard
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.upkeep.examine import SetExam, ShardExam, examine_set, examine_shard
from permafrost.cache.upkeep.rewrite import Remains, rebuild_shard
from permafrost.cache.upkeep.verify import list_damage_beside
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.planning.remembered import recall_recipe
from permafrost.pipeline.upkeep.recompute import Recomputer
from permafrost.pipeline.upkeep.repair_report import DroppedRow, Repairs
from permafrost.pipeline.upkeep.shared import count, show_sets, wait_for_turn

_READ_BYTES = 1 << 20


class Mending:
    """Mends a whole cache, and tells `found` what is done.

    The index knows recipes, images, and which rows a shard held that can no longer say so.
    """

    def __init__(self, layout: CacheLayout, index: Index, run: RunOptions, found: Repairs) -> None:
        self._layout = layout
        self._index = index
        self._recomputer = Recomputer(layout, index, run)
        self._found = found
        self._compression = run.compression
        self._pending: list[Path] = []

    def mend(self, advance: Callable[[ShardExam], None]) -> None:
        """Examine everything, and mend what is damaged; tell `advance` of each shard examined."""
        remove_orphans(self._layout.root)
        self._pending = list_set_folders(self._layout)
        while self._pending:
            folder = self._pending.pop(0)
            remove_orphans(folder)
            self._mend_beside(folder)
            exam = examine_set(self._layout, folder, advance=advance)
            recipe = self._settle_recipe(exam)
            if recipe is not None:
                self._mend_shards(exam, recipe)
        self._mend_index()

    def _mend_beside(self, folder: Path) -> None:
        for damage in list_damage_beside(folder):
            self._found.note_damage(damage.file, damage.reason)
            damage.file.unlink(missing_ok=True)
            self._found.note_done(damage.file, "removed; it is made again when it is needed")

    def _mend_index(self) -> None:
        file, n_wrong = self._layout.index_file, 0
        for key in self._index.feature_sets():
            shards = self._index.shards_of(key).values()
            wrong = [shard.name for shard in shards if shard.name != shard_name(shard.digests)]
            self._index.replace_shards(key, add=(), remove=wrong)
            n_wrong += len(wrong)
        if n_wrong:
            self._found.note_damage(file, f"it knows other rows of {count(n_wrong, 'shard')}")
            self._found.note_done(file, "they are forgotten, and read again")

    def _settle_recipe(self, exam: SetExam) -> Recipe | None:
        """Return the recipe of a set, written anew where it was damaged; None without one."""
        if exam.damage is None:
            return exam.recipe
        file = exam.folder / "recipe.json"
        self._found.note_damage(file, exam.damage)
        for key in {shard.key for shard in exam.shards if shard.key is not None}:
            recipe = recall_recipe(self._index, key)
            if recipe is not None and self._layout.feature_set_folder(recipe) == exam.folder:
                open_feature_set_folder(self._layout, recipe)
                self._found.note_done(file, "written anew")
                return recipe
        if exam.shards:
            self._found.note_left(
                file, "its recipe is not known here; repeat the extract that wrote it"
            )
        else:
            file.unlink(missing_ok=True)
            self._found.note_done(file, "removed; there are no rows of it")
        return None

    def _mend_shards(self, exam: SetExam, recipe: Recipe) -> None:
        key = recipe_key(recipe)
        known = self._index.shards_of(key)
        damaged = [one for one in exam.shards if one.damage is not None or one.key != key]
        found = [self._take_up(shard, key, known) for shard in damaged]
        all_remains = [remains for remains in found if remains is not None]
        for remains in all_remains:
            self._rebuild(remains, recipe)
        done = {shard_name(remains.digests) for remains in all_remains}
        features = FeatureSet(self._layout, recipe, self._index)
        for shard in known.values():
            if shard.name not in done and _is_gone(shard, features):
                path = exam.folder / shard.name
                self._found.note_damage(path, "it is gone")
                self._rebuild(_describe_lost(path, key, shard.digests), recipe)
        features.refresh()

    def _take_up(
        self, shard: ShardExam, key: str, known: Mapping[str, IndexedShard]
    ) -> Remains | None:
        """Remove or move away what is no shard of this set; return what remains of one that is."""
        path, digests = shard.path, shard.digests
        if not path.exists():  # another run has merged or mended it
            return None
        self._found.note_damage(path, shard.damage or "it holds rows of another feature set")
        if error := _find_read_error(path):
            self._found.note_left(path, error)
            return None
        if shard.key not in (None, key):
            self._send_home(shard)
            return None
        if digests is None:
            return self._recall(path, key, known)
        place = path if path.name == shard_name(digests) else self._move(shard, path.parent)
        if place is None:
            return None
        return Remains(path=place, key=key, digests=digests, intact=shard.intact)

    def _recall(self, path: Path, key: str, known: Mapping[str, IndexedShard]) -> Remains | None:
        """Return which rows a shard held that can no longer say so itself."""
        entry = known.get(path.name)
        if entry is not None and shard_name(entry.digests) == path.name:
            return _describe_lost(path, key, entry.digests)
        self._remove(path, "which ones it held is not known here")
        return None

    def _send_home(self, shard: ShardExam) -> None:
        """Bring a shard to the feature set that it says it belongs to."""
        home = self._find_home(str(shard.key))
        if home is None or shard.digests is None:
            self._remove(shard.path, "the feature set that it belongs to is not here")
        elif self._move(shard, home) and home not in self._pending:
            self._pending.append(home)

    def _find_home(self, key: str) -> Path | None:
        # By its name alone: its recipe may be damaged too.
        folders = list_set_folders(self._layout)
        homes = [folder for folder in folders if folder.parent.name.endswith(f"-{key[:12]}")]
        if homes:
            return homes[0]
        recipe = recall_recipe(self._index, key)
        return None if recipe is None else open_feature_set_folder(self._layout, recipe)

    def _move(self, shard: ShardExam, folder: Path) -> Path | None:
        """Give a shard the name of its rows; if another has it, one of its own, or none."""
        assert shard.digests is not None
        final = folder / shard_name(shard.digests)
        if final.exists() and examine_shard(final, shard.key).damage is None:
            shard.path.unlink(missing_ok=True)
            self._found.note_done(shard.path, f"removed: its rows are those of {final}")
            return None
        if final.exists():
            final = folder / f"shard-{uuid.uuid4().hex}.h5"
        shard.path.replace(final)
        sync(folder)
        self._found.note_done(shard.path, f"moved to {final}")
        return final

    def _remove(self, path: Path, reason: str) -> None:
        path.unlink(missing_ok=True)
        self._found.note_done(path, "removed")
        self._found.dropped.append(DroppedRow(file=path, digest="", reason=reason))

    def _rebuild(self, old: Remains, recipe: Recipe) -> None:
        """Put a sound shard in the place of a damaged one."""
        if old.intact.all() and old.path.name == shard_name(old.digests):
            return  # Its name was all that was wrong.
        fresh = self._recompute(old, str(recipe["dtype"]))
        row = _find_format(old)
        if row is None and fresh:
            shape = next(iter(fresh.values())).shape
            row = RowFormat(shape=shape, dtype=str(recipe["dtype"]), compression=self._compression)
        new = None if row is None else rebuild_shard(old, fresh, row)
        if new is None:
            old.path.unlink(missing_ok=True)
            self._found.note_done(old.path, "removed: none of its rows can be had")
            return
        self._found.recomputed += len(fresh)
        rows = f"{count(int(old.intact.sum()), 'row')} kept, {len(fresh):,} computed again"
        place = "" if new == old.path else f" as {new.name}"
        self._found.note_done(old.path, f"written again{place}: {rows}")

    def _recompute(self, old: Remains, dtype: str) -> dict[bytes, NDArray[Any]]:
        fresh: dict[bytes, NDArray[Any]] = {}
        for row in self._recomputer.compute({old.key: split_digests(old.digests[~old.intact])}):
            reason = row.reason
            if row.values is not None:
                try:
                    fresh[row.digest] = as_storable(row.values[None], dtype)[0]
                    continue
                except UnstorableError as error:
                    reason = str(error)
            dropped = DroppedRow(file=old.path, digest=row.digest.hex(), reason=reason)
            self._found.dropped.append(dropped)
        return fresh


def _is_gone(shard: IndexedShard, features: FeatureSet) -> bool:
    """Tell whether a shard was there, is not, and its rows lie nowhere else."""
    if (features.folder / shard.name).exists() or shard_name(shard.digests) != shard.name:
        return False
    return bool(features.locate(split_digests(shard.digests)).missing.any())


def _describe_lost(path: Path, key: str, digests: NDArray[np.uint8]) -> Remains:
    return Remains(path=path, key=key, digests=digests, intact=np.zeros(len(digests), np.bool_))


def _find_format(old: Remains) -> RowFormat | None:
    try:
        return read_format(old.path, old.key)
    except CacheError:
        return None


def _find_read_error(path: Path) -> str | None:
    """Find out whether the system refuses to read a file, which then may well be sound."""
    if not path.is_file():
        return "it is no file; move it away"
    try:
        with path.open("rb") as stream:
            while stream.read(_READ_BYTES):
                pass
    except OSError as error:
        return f"it cannot be read ({error.strerror}); see to the disk or its permissions"
    return None


def repair(root: Path, run: RunOptions) -> Repairs:
    """Mend a cache; killed at any point, it goes on from there when it is called again.

    `run` says how rows are computed again.

    Raises
    ------
    CacheError
        There is no cache.
    """
    layout = find_cache(root)
    found = Repairs(root=root)
    with wait_for_turn(layout), Index(layout.index_file) as index, show_sets(layout) as advance:
        mending = Mending(layout, index, run, found)
        mending.mend(lambda shard: advance(shard.path.parent, n_shards=1))
    return found
