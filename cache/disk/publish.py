"""Publishing files so that a reader, or the next run after a power cut, sees all of one or none."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from permafrost.cache.disk.owners import Owner, name_host

_TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY_NAME = re.compile(r"\.tmp-(?P<owner>.*)-\d+(\..*)?", re.DOTALL)
# Another host's process cannot be asked whether it lives; its files are given a day.
_FOREIGN_TEMPORARY_AGE_S = 24 * 3600
_counter = itertools.count()


def temporary_path(final: Path) -> Path:
    """Return a path beside `final`, on the same file system, that no other process uses."""
    owner = f"{Owner.current()}-{next(_counter)}"
    return final.with_name(f"{_TEMPORARY_PREFIX}{owner}{final.suffix}")


def is_temporary(path: Path) -> bool:
    """Tell whether `path` is an unpublished file of ours."""
    return path.name.startswith(_TEMPORARY_PREFIX)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its final name: its bytes reach the disk before its name does."""
    sync(temporary)
    temporary.replace(final)
    sync(final.parent)


@contextlib.contextmanager
def published(final: Path) -> Iterator[Path]:
    """Yield a temporary path; publish it as `final` on success, remove it on failure.

    What killed processes left beside it is removed on the way.
    """
    remove_orphans(final.parent)
    temporary = temporary_path(final)
    try:
        yield temporary
        publish(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`; it is removed at the end, or by the next run after a kill."""
    remove_orphans(parent)
    folder = temporary_path(parent / "folder")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_durable(folder: Path) -> None:
    """Wait until all that lies in a folder, and below it, is on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def remove_durably(file: Path) -> None:
    """Remove a file, if it is there, before anything that comes after."""
    if file.exists():
        file.unlink(missing_ok=True)
        sync(file.parent)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, each durable before anything is put inside."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def list_orphans(folder: Path) -> list[Path]:
    """List unpublished files and folders in `folder` whose writer is dead."""
    return [path for path in folder.glob(f"{_TEMPORARY_PREFIX}*") if _is_orphan(path)]


def list_unpublished(folder: Path) -> list[Path]:
    """List unpublished files and folders in `folder` whose writer may well live."""
    found = [path for path in folder.glob(f"{_TEMPORARY_PREFIX}*") if not _is_orphan(path)]
    return [path for path in found if _find_owner(path)]


def remove_orphans(folder: Path) -> None:
    """Remove unpublished files and folders in `folder` whose writer is dead."""
    for path in list_orphans(folder):
        with contextlib.suppress(OSError):  # on a disk that cannot be written, they stay
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _find_owner(path: Path) -> Owner | None:
    match = _TEMPORARY_NAME.fullmatch(path.name)
    return match and Owner.parse(match["owner"])


def _is_orphan(path: Path) -> bool:
    owner = _find_owner(path)
    if owner is None:
        return False  # Not ours: the folder of a features.h5 is the user's.
    if owner.host == name_host():
        return owner.is_dead
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _FOREIGN_TEMPORARY_AGE_S
    return False
