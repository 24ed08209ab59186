"""Publishing files so that a reader, or the next run after a power cut, sees all of one or none."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from permafrost.cache.disk.orphans import TEMPORARY_PREFIX, remove_orphans
from permafrost.cache.disk.owners import Owner
from permafrost.cache.disk.sharing import share

_counter = itertools.count()
# Whoever wants to know which files change; see `noting_changes`.
_listeners: list[list[Path]] = []
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
    note_change(final)


def note_change(file: Path) -> None:
    """Note that a file was written or removed, unless it lies in a `temporary_folder`."""
    if not any(part.startswith(TEMPORARY_PREFIX) for part in file.parts):
        for noted in _listeners:
            noted.append(file)


@contextlib.contextmanager
def noting_changes() -> Iterator[list[Path]]:
    """Yield a list of all files that this process publishes or removes meanwhile."""
    noted: list[Path] = []
    _listeners.append(noted)
    try:
        yield noted
    finally:
        _listeners.remove(noted)


def has_same_bytes(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same; False where one is not there."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


@contextlib.contextmanager
def published(
    final: Path,
    *,
    shared: bool = False,
    is_same: Callable[[Path, Path], bool] = has_same_bytes,
) -> Iterator[Path]:
    """Yield a temporary path; `publish` it as `final` on success, remove it on failure.

    A `shared` one, as all files in a cache are, gets the permissions of its folder; any other
    follows the umask, and where `final` is the same already, as `is_same` says of both, that one
    stays as it is, time included. What killed processes left beside it is removed on the way.
    """
    remove_orphans(final.parent)
    temporary = temporary_path(final)
    try:
        yield temporary
        if shared:
            share(temporary)
        elif is_same(temporary, final):
            sync(final.parent)  # Whoever wrote it may have been killed before.
            return
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
        note_change(file)


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
