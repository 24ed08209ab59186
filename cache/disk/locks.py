"""Locks between processes, where the file system has them."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from permafrost.cache.disk.sharing import open_shared

_log = logging.getLogger(__name__)

# The errors of file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
_POLL_S = 0.005


@contextmanager
def lock(file: Path, *, purpose: str) -> Iterator[bool]:
    """Hold an exclusive lock, which ends with the process; wait for whoever holds it.

    Parameters
    ----------
    file : Path
        Made if need be, and left: another process may wait for it.
    purpose : str
        Who is waited for, as the log says it: "another gc".

    Yields
    ------
    bool
        Whether it is held: False where the file system has no locks.
    """
    with open_shared(file) as opened:
        yield _acquire(opened.fileno(), purpose)


def _acquire(descriptor: int, purpose: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("waiting for %s", purpose)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def wait_for_lock(descriptor: int, *, timeout_s: float) -> None:
    """Lock an open file for this process alone, until it is closed.

    This returns without the lock where the file system has none, and where another process keeps
    it for `timeout_s`, as one that is stopped does. Callers must be right without it.
    """
    deadline_s = time.monotonic() + timeout_s
    with suppress(OSError):
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    return None
            time.sleep(_POLL_S)


@contextmanager
def locked_folder(folder: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock of a folder, while files that belong together are written into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        wait_for_lock(descriptor, timeout_s=timeout_s)
        yield
    finally:
        os.close(descriptor)
