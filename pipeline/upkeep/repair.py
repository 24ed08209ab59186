"""``repair``: save what is intact and put aside what is not, so that a kill leaves no row lost.

Nothing is computed, and nothing is deleted: rows that are damaged are missing then, and `extract`
computes what is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.errors import CacheError
from permafrost.cache.shards.format import shard_name
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import list_set_folders, open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.cache.upkeep.examine import SetExam, ShardExam, examine_set
from permafrost.cache.upkeep.salvage import quarantine, salvage_rows
from permafrost.cache.upkeep.verify import Damage, list_damaged_artefacts, list_damaged_records
from permafrost.pipeline.planning.remembered import recall_recipe
from permafrost.pipeline.units import count
from permafrost.pipeline.upkeep.repair_report import DroppedRow, Repairs
from permafrost.pipeline.upkeep.shared import show_sets, wait_for_turn


def repair(root: Path) -> Repairs:
    """Mend a cache; killed at any point, it goes on from there when it is called again.

    Raises
    ------
    CacheError
        There is no cache.
    OSError
        The system does not let a file be read or written; every intact row is still there.
    """
    layout = find_cache(root)
    found = Repairs(root=root)
    with wait_for_turn(layout), Index(layout.index_file) as index, show_sets(layout) as advance:
        _Mending(layout, index, found).mend(lambda shard: advance(shard.path.parent, n_shards=1))
    return found


class _Mending:
    """Mends a whole cache, and tells `found` what is done.

    The index knows recipes, and which rows a shard held that can no longer say so.
    """

    def __init__(self, layout: CacheLayout, index: Index, found: Repairs) -> None:
        self._layout = layout
        self._index = index
        self._found = found
        self._pending: list[Path] = []
        self._written: set[Path] = set()
        # By key: the recipe, and the rows that damaged shards held, digest → row.
        self._sets: dict[str, tuple[Recipe, dict[bytes, DroppedRow]]] = {}

    def mend(self, advance: Callable[[ShardExam], None]) -> None:
        """Examine everything, and mend what is damaged; tell `advance` of each shard examined."""
        remove_orphans(self._layout.root)
        self._pending = list_set_folders(self._layout)
        while self._pending:
            folder = self._pending.pop(0)
            remove_orphans(folder)
            for damage in (*list_damaged_records(folder), *list_damaged_artefacts(folder)):
                self._put_aside(damage)
            exam = examine_set(self._layout, folder, advance=advance)
            recipe = self._settle_recipe(exam)
            if recipe is not None:
                self._mend_shards(exam, recipe)
        for recipe, rows in self._sets.values():
            # The index forgets the shards that are gone.
            features = FeatureSet(self._layout, recipe, self._index)
            missing = features.locate(list(rows)).missing
            self._found.dropped += itertools.compress(rows.values(), missing)
        self._mend_index()

    def _put_aside(self, damage: Damage) -> None:
        self._found.damaged.append(damage)
        quarantine(damage.file)
        self._found.note_done(damage.file, "put into quarantine/")

    def _mend_index(self) -> None:
        file, n_wrong = self._layout.index_file, 0
        for key in self._index.feature_sets():
            wrong = self._index.stamps_of(key).keys() - self._list_known(key).keys()
            self._index.replace_shards(key, add=(), remove=wrong)
            n_wrong += len(wrong)
        if n_wrong:
            reason = f"it knew other rows of {count(n_wrong, 'shard')}"
            self._found.damaged.append(Damage(file=file, reason=reason))
            self._found.note_done(file, "mended; it reads them again")

    def _list_known(self, key: str) -> dict[str, np.ndarray]:
        """List the shards of a set whose rows the index knows rightly, and these."""
        found = ((name, self._index.rows_of(key, name)) for name in self._index.stamps_of(key))
        return {name: it for name, it in found if it is not None and name == shard_name(it)}

    def _settle_recipe(self, exam: SetExam) -> Recipe | None:
        """Return the recipe of a set, written anew where it was damaged; None without one."""
        if exam.damage is None:
            return exam.recipe
        damage = Damage(file=exam.folder / "recipe.json", reason=exam.damage)
        if not exam.shards:
            self._put_aside(damage)
            return None
        self._found.damaged.append(damage)
        for key in {shard.key for shard in exam.shards if shard.key is not None}:
            recipe = recall_recipe(self._index, key)
            if recipe is not None and self._layout.feature_set_folder(recipe) == exam.folder:
                open_feature_set_folder(self._layout, recipe)
                self._found.note_done(damage.file, "written anew")
                return recipe
        self._found.note_left(
            damage.file, "its recipe is not known here; repeat the extract that wrote it"
        )
        return None

    def _mend_shards(self, exam: SetExam, recipe: Recipe) -> None:
        key = recipe_key(recipe)
        known = self._list_known(key)
        _, rows = self._sets.setdefault(key, (recipe, {}))
        for shard in exam.shards:
            path, is_own = shard.path, shard.key in (None, key)
            if shard.damage is None and shard.key == key:
                continue
            if path in self._written or not path.exists():  # It is under another name now.
                self._pending.append(exam.folder)
            elif self._mend_shard(shard, exam.folder if is_own else self._find_home(shard.key)):
                held = [known.get(path.name), shard.digests if is_own else None]
                digests = [one for some in held if some is not None for one in split_digests(some)]
                reason = self._found.damaged[-1].reason
                if is_own and not digests:
                    self._found.dropped.append(DroppedRow(file=path, reason=reason))
                for one in digests:
                    rows[one] = DroppedRow(file=path, digest=one.hex(), reason=reason)

    def _mend_shard(self, shard: ShardExam, home: Path | None) -> bool:
        """Bring the intact rows of a shard home, and put it aside; tell whether that was done."""
        path = shard.path
        reason = shard.damage or "it holds rows of another feature set"
        try:
            new = None if home is None else salvage_rows(shard, home)
        except CacheError as error:
            self._found.damaged.append(Damage(file=path, reason=reason))
            self._found.note_left(path, str(error))
            return False
        self._put_aside(Damage(file=path, reason=reason))
        if new is not None:
            self._found.salvaged[path.parent] += int(shard.intact.sum())
            self._written.add(new)
            # A file there may have got another name.
            self._pending += {new.parent} - {path.parent, *self._pending}
        return True

    def _find_home(self, key: str | None) -> Path | None:
        """Find the folder of a feature set by its name, as its recipe may be damaged too."""
        folders = list_set_folders(self._layout)
        return next((one for one in folders if one.parent.name.endswith(f"-{str(key)[:12]}")), None)
