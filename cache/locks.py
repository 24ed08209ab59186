"""One upkeep run at a time, where the file system has locks."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)

# What file systems without locks say.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


@contextmanager
def lock(file: Path, *, purpose: str) -> Iterator[bool]:
    """Hold an exclusive lock, which ends with the process; wait for whoever holds it.

    Parameters
    ----------
    file : Path
        Made if need be, and left: another process may wait for it.
    purpose : str
        What is said of whoever is waited for, as in "another gc".

    Yields
    ------
    bool
        Whether it is held: False where the file system has no locks.
    """
    with file.open("a") as opened:
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
