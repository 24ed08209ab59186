"""What verify, repair, gc and compact share: their lock, their progress, and some words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from permafrost.cache.disk.locks import lock
from permafrost.cache.shards.reader import list_shards
from permafrost.cache.store.folders import list_set_folders, name_set
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.survey import SetSurvey
from permafrost.pipeline.progress import show_progress

# Our reader finds rows wherever they lie; a virtual dataset does not.
RENEW_VIEWS = "repeat extract to renew views for other HDF5 readers"
# After a number of files.
QUARANTINED = "in quarantine/; gc --keep-days N drops those that repair put there N days ago"


class Advance(Protocol):
    """What `show_sets` yields, to be called whenever shards are done."""

    def __call__(self, folder: Path, *, n_shards: int | None = None) -> None:
        """Tell that shards of a folder are done; by default all that are left."""
        ...


@contextmanager
def show_sets(layout: CacheLayout) -> Iterator[Advance]:
    """Show progress by shards; yield a function to call whenever some are done."""
    left = {folder: sum(1 for _ in list_shards(folder)) for folder in list_set_folders(layout)}
    place = ""

    def tell(folder: Path, *, n_shards: int | None = None) -> None:
        nonlocal place
        place = name_set(folder)
        n_done = left.get(folder, 0) if n_shards is None else n_shards
        left[folder] = left.get(folder, 0) - n_done
        if n_done:
            advance(n_done)

    with show_progress(sum(left.values()), unit="shards", note=lambda: place) as advance:
        yield tell


def wait_for_turn(layout: CacheLayout) -> AbstractContextManager[bool]:
    """Wait until no other upkeep runs; yield False where the file system has no locks."""
    return lock(layout.upkeep_lock, purpose="another gc, compact or repair")


def forget_shards(layout: CacheLayout, survey: SetSurvey) -> None:
    """Let the index forget the shards of a feature set that are gone."""
    there = {path.name for path, _ in list_shards(survey.folder)}
    gone = {shard.path.name for shard in survey.shards} - there
    with Index(layout.index_file) as index:
        index.replace_shards(survey.key, add=(), remove=gone)
