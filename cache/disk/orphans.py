"""What killed processes left behind: temporary files and folders that never got their names."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

from permafrost.cache.disk.owners import Owner, name_host

TEMPORARY_PREFIX = ".tmp-"

_TEMPORARY_NAME = re.compile(r"\.tmp-(?P<owner>.*)-\d+(\..*)?", re.DOTALL)

# Another host's process cannot be asked whether it lives; its files are given a day.
_FOREIGN_TEMPORARY_AGE_S = 24 * 3600


def is_temporary(path: Path) -> bool:
    """Tell whether `path` is an unpublished file of ours."""
    return path.name.startswith(TEMPORARY_PREFIX)


def list_folder(folder: Path) -> list[Path]:
    """List a folder; empty where it is gone. Unlike `Path.glob`, it hides no refusal."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_orphans(folder: Path) -> list[Path]:
    """List unpublished files and folders in `folder` whose writer is dead."""
    return [path for path in folder.glob(f"{TEMPORARY_PREFIX}*") if _is_orphan(path)]


def list_unpublished(folder: Path) -> list[Path]:
    """List unpublished files and folders in `folder` whose writer may well live."""
    found = [path for path in folder.glob(f"{TEMPORARY_PREFIX}*") if not _is_orphan(path)]
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
