"""Examine a whole cache, without changing it: feature sets, what lies beside them, the index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from permafrost.cache.disk.orphans import list_orphans
from permafrost.cache.shards.format import shard_name
from permafrost.cache.shards.reader import list_shards
from permafrost.cache.store.derived import check_artefact
from permafrost.cache.store.folders import list_set_folders
from permafrost.cache.store.index_file import FAILURES, open_unchanged
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.records import RECORD_FILES, read_record
from permafrost.cache.upkeep.examine import (
    READ_FAILURES,
    SetExam,
    ShardExam,
    describe_damage,
    examine_set,
)
from permafrost.cache.upkeep.salvage import list_quarantined

_INDEXED_SHARDS = "SELECT feature_set, name, stamp, digests FROM shards"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A file that is not as it was written, and why."""

    file: Path
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Return it as a JSON object."""
        return {"file": str(self.file), "reason": self.reason}


@dataclass(slots=True, kw_only=True)
class CacheExam:
    """What a cache holds.

    Attributes
    ----------
    feature_sets, shards : int
    rows : int
        Different ones, of each feature set.
    n_bytes : int
        Of the shards.
    duplicates : int
        Rows that a feature set has more than once, each time but the first.
    temporary : list of Path
        What dead writers left.
    quarantined : list of Path
        What repair put aside.
    damaged : list of Damage
    remarks : list of str
        What is not as it should be, and harmless.
    """

    feature_sets: int = 0
    shards: int = 0
    rows: int = 0
    n_bytes: int = 0
    duplicates: int = 0
    temporary: list[Path] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def verify_cache(
    layout: CacheLayout, *, advance: Callable[[ShardExam], None] = lambda _: None
) -> CacheExam:
    """Examine everything in a cache; memory is bounded by the rows of one feature set.

    `advance` is told of each shard when it is done.
    """
    found = CacheExam(temporary=[*list_orphans(layout.root), *list_orphans(layout.leases_folder)])
    keys: dict[Path, str] = {}
    for folder in list_set_folders(layout):
        exam = examine_set(layout, folder, advance=advance)
        _count(exam, found)
        found.damaged += _list_damage(exam)
        found.remarks += (
            f"{one.file} is damaged ({one.reason}); delete it: it is made again when it is needed"
            for one in list_damaged_artefacts(folder)
        )
        found.temporary += list_orphans(folder)
        found.quarantined += list_quarantined(folder)
        keys[folder] = exam.key or next((shard.key for shard in exam.shards if shard.key), "")
    _examine_index(layout.index_file, keys, found)
    return found


def _count(exam: SetExam, found: CacheExam) -> None:
    rows = [shard.digests for shard in exam.shards if shard.digests is not None]
    n_rows = sum(map(len, rows))
    n_distinct = len(np.unique(np.concatenate(rows).view("S32"))) if n_rows else 0
    found.feature_sets += bool(exam.recipe or exam.damage or exam.shards)
    found.shards += len(exam.shards)
    found.rows += n_distinct
    found.n_bytes += sum(shard.n_bytes for shard in exam.shards)
    found.duplicates += n_rows - n_distinct


def _list_damage(exam: SetExam) -> Iterator[Damage]:
    if exam.damage is not None:
        yield Damage(file=exam.folder / "recipe.json", reason=exam.damage)
    for shard in exam.shards:
        if shard.damage is not None:
            yield Damage(file=shard.path, reason=shard.damage)
    yield from list_damaged_records(exam.folder)


def list_damaged_records(folder: Path) -> Iterator[Damage]:
    """List the damaged records of a feature set, without which all goes on."""
    for kind, name in RECORD_FILES.items():
        if (folder / name).exists() and read_record(folder, kind) is None:
            yield Damage(file=folder / name, reason="it is no record of that kind")


def list_damaged_artefacts(folder: Path) -> Iterator[Damage]:
    """List the damaged arrays and models that were derived from a feature set: nothing is lost."""
    for path in sorted(folder.glob("derived-*.h5")):
        with contextlib.suppress(FileNotFoundError):  # gc may run
            try:
                check_artefact(path)
            except READ_FAILURES as error:
                yield Damage(file=path, reason=describe_damage(error, path))


def _examine_index(file: Path, keys: Mapping[Path, str], found: CacheExam) -> None:
    """Compare the index with the shards; whatever it is, it is made anew from them."""
    if not file.exists():
        return
    there = {
        (key, path.name): stamp
        for folder, key in keys.items()
        for path, stamp in list_shards(folder)
    }
    n_stale = 0
    try:
        with contextlib.closing(open_unchanged(file)) as index:
            for key, name, stamp, rows in index.execute(_INDEXED_SHARDS):
                if shard_name(np.frombuffer(rows, np.uint8)) != name:
                    reason = f"it says that {name} holds other rows; delete it, it is made anew"
                    found.damaged.append(Damage(file=file, reason=reason))
                n_stale += there.get((key, name)) != stamp
    except (*FAILURES, TypeError) as error:  # the last of rows that are no bytes
        found.remarks.append(f"{file} is no index ({error}); the next run makes a new one")
    if n_stale:
        found.remarks.append(f"{file} is behind the shards (entries: {n_stale}); harmless")
