"""Publishing files so that a reader, or the next run after a power cut, sees all of one or none."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from permafrost.cache.disk.orphans import TEMPORARY_PREFIX, remove_orphans
from permafrost.cache.disk.owners import Owner
from permafrost.cache.disk.sharing import share

_counter = itertools.count()
# What file systems answer that cannot synchronize folders.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def temporary_path(final: Path) -> Path:
    """Return a path beside `final`, on the same file system, that no other process uses."""
    owner = f"{Owner.current()}-{next(_counter)}"
    return final.with_name(f"{TEMPORARY_PREFIX}{owner}{final.suffix}")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk.

    Some network file systems cannot do so with folders: their names are safe as the server has it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its final name: its bytes reach the disk before its name does."""
    sync(temporary)
    rename(temporary, final)


def rename(temporary: Path, final: Path) -> None:
    """Give a file, whose bytes are on the disk, its final name."""
    temporary.replace(final)
    sync(final.parent)


@contextlib.contextmanager
def published(final: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path; `publish` it as `final` on success, remove it on failure.

    A `shared` one, as all files in a cache are, gets the permissions of its folder; any other
    follows the umask. What killed processes left beside it is removed on the way.
    """
    remove_orphans(final.parent)
    temporary = temporary_path(final)
    try:
        yield temporary
        if shared:
            share(temporary)
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
    """Remove a file, if it is there, and wait until the disk knows."""
    if file.exists():
        file.unlink(missing_ok=True)
        sync(file.parent)


def make_folder(folder: Path, *, shared: bool = False) -> None:
    """Create `folder` and its parents, each durable before anything is put inside.

    With `shared` they get the permissions of the folder that they lie in.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, shared=shared)
    folder.mkdir(exist_ok=True)
    if shared:
        share(folder)
    sync(folder.parent)
