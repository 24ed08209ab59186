"""What tells one version of a file from the next, as the cache's index remembers it."""

from __future__ import annotations

import os
import time

# Times of files go on in steps: 1 to 10 ms on Linux, 2 s on FAT, and the clock of a file server may
# be that far from ours. A file that was written so recently may be written again at the same time.
CLOCK_STEP_NS = 2_000_000_000


def write_stamp(status: os.stat_result) -> str:
    """Return ``size:mtime_ns``: enough for the cache's shards, which are never changed.

    A cache that was copied to another disk need not be read again to be known.
    """
    return f"{status.st_size}:{status.st_mtime_ns}"


def write_exact_stamp(status: os.stat_result, now_ns: int | None = None) -> str:
    """Return ``size:mtime_ns:ctime_ns:inode`` of somebody else's file, as of now.

    For many files, now may be before the first of them was asked about.

    Two files of one size can be given the same time of change (by unpacking an archive, by ``mv``
    of one onto the other), but nobody can set ``ctime``. A file that was written a moment ago gets
    a stamp that never comes again, because it may yet be written within the same step of the
    clock: it is hashed once more by the next run.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    changed_ns = status.st_ctime_ns
    stamp = f"{status.st_size}:{status.st_mtime_ns}:{changed_ns}:{status.st_ino}"
    return f"{stamp}:seen at {now_ns}" if changed_ns > now_ns - CLOCK_STEP_NS else stamp
