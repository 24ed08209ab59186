"""Which rows other runs are computing now, so that two runs at once do not compute them twice.

A lease says: this run is going to compute these rows. It is one small file for each run, and ends
with it: at once where its process is dead, and anywhere when it was not touched for a minute. Then
others take the rows; a process that was only stopped, or slept with its machine, sees that they
may have, and looks before it goes on.

Leases save work; nothing depends on them. Where they cannot be written, or the file system has no
locks, two runs may compute a row both, and both are right.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from permafrost.cache.disk.locks import wait_for_lock
from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.owners import Owner
from permafrost.cache.disk.publish import make_folder, temporary_path
from permafrost.cache.disk.sharing import open_shared, share
from permafrost.cache.shards.locations import join_digests, split_digests

_log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
# A process that is stopped, or whose machine is gone, does not touch its lease.
EXPIRES_S = 60.0
# Whoever chooses rows does so in milliseconds, unless it was stopped just then.
LOCK_TIMEOUT_S = 2.0
_FILLING = "lease-"
_USING = "use-"
_counter = itertools.count()


@dataclass(slots=True, kw_only=True)
class OtherRuns:
    """What the leases of other runs say.

    Attributes
    ----------
    n_runs : int
        Those that compute one of the same feature sets.
    held : set of bytes
        Digests of the rows that they are going to compute.
    are_waiting : bool
        Whether one of them waits for rows of others.
    """

    n_runs: int = 0
    held: set[bytes] = field(default_factory=set)
    are_waiting: bool = False


class Leases:
    """The lease of this run, and a look at those of others.

    Parameters
    ----------
    folder : Path
        Where the leases of a cache lie.
    keys : sequence of str
        Of the feature sets that this run adds to, or relies on.
    prefix : str
        Of the file's name, which tells one from the other.
    """

    def __init__(self, folder: Path, keys: Sequence[str], *, prefix: str = _FILLING) -> None:
        self._folder = folder
        self._keys = frozenset(keys)
        self._file = folder / f"{prefix}{Owner.current()}-{next(_counter)}"
        self._heart: threading.Thread | None = None
        self._ended = threading.Event()
        self._is_usable = True
        self._is_held = False
        self._has_slept = False
        self._surveyed_s = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of all rows."""
        self._ended.set()
        if self._heart:
            self._heart.join()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    @property
    def have_lapsed(self) -> bool:
        """Whether others may have taken the rows since `hold`, which makes the lease good again."""
        if not self._is_held or self._has_slept:
            return self._is_held
        try:
            self._file.stat()
        except OSError:
            return True  # Whoever takes rows removes the lease first.
        return False

    @contextlib.contextmanager
    def choosing(self) -> Iterator[OtherRuns]:
        """Say what others hold, and keep them from choosing rows until this run has chosen."""
        with contextlib.ExitStack() as stack:
            others = OtherRuns()
            self._surveyed_s = math.inf
            with self._tolerating():
                make_folder(self._folder, shared=True)
                self._surveyed_s = stack.enter_context(self._locked())
                others = self._survey(self._surveyed_s)
            yield others

    def hold(self, digests: Sequence[bytes], *, waiting: bool) -> None:
        """Say which rows this run is going to compute, instead of those it said before.

        `waiting` tells others whether this run waits for rows of theirs.
        """
        header = {"keys": sorted(self._keys), "waiting": waiting}
        with self._tolerating():
            temporary = temporary_path(self._file)
            try:
                temporary.write_bytes(
                    json.dumps(header).encode() + b"\n" + join_digests(digests).tobytes()
                )
                share(temporary)
                temporary.replace(self._file)
            finally:
                temporary.unlink(missing_ok=True)
            self._has_slept = self._file.stat().st_mtime - self._surveyed_s > EXPIRES_S
            self._is_held = True
            if self._heart is None:
                self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
                self._heart.start()

    @contextlib.contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # No lease is better than one that says what is true no more.
            self._is_held = False
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
            # Whoever may not write in a cache only reads it.
            if self._is_usable and not self._file.name.startswith(_USING):
                self._is_usable = False
                _log.warning(
                    "no leases can be kept in %s (%s); should another run be going, some rows will"
                    " be computed twice",
                    self._folder,
                    error.strerror or error,
                )

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                touched_s = self._file.stat().st_mtime
                os.utime(self._file)
                # By the file system's clock: that of this process may have slept with the machine.
                if self._file.stat().st_mtime - touched_s > EXPIRES_S:
                    self._has_slept = True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[float]:
        """Take the lock where locks work, and yield the file system's time.

        Its clock stamps the leases; on a network file system it need not be ours.
        """
        with _lock(self._folder) as descriptor:
            os.utime(descriptor)
            yield os.fstat(descriptor).st_mtime

    def _survey(self, now_s: float) -> OtherRuns:
        others = OtherRuns()
        remove_orphans(self._folder)
        for file in _list_leases(self._folder):
            if file == self._file:
                continue
            # It may be gone by now, or another user's.
            with contextlib.suppress(OSError):
                if _has_expired(file, now_s):
                    file.unlink()
                elif file.name.startswith(_FILLING):
                    self._read(file, others)
        return others

    def _read(self, file: Path, others: OtherRuns) -> None:
        try:
            line, _, digests = file.read_bytes().partition(b"\n")
            header = json.loads(line)
            if self._keys.isdisjoint(header["keys"]):
                return
            others.held.update(split_digests(np.frombuffer(digests, np.uint8).reshape(-1, 32)))
            others.n_runs += 1
            others.are_waiting |= bool(header["waiting"])
        except (ValueError, KeyError, TypeError):
            return  # A power cut may leave a lease with a part of its bytes.


class Uses:
    """Says which feature sets this run relies on, until it ends: `dropping` leaves them alone.

    `folder` is where the leases of a cache lie. Where it cannot be written nothing is said.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, keys: Sequence[str]) -> None:
        """Rely on these feature sets from now on; look at what they hold after that."""
        lease = self._stack.enter_context(Leases(self._folder, keys, prefix=_USING))
        with lease.choosing():
            lease.hold([], waiting=False)


@contextlib.contextmanager
def dropping(folder: Path, key: str) -> Iterator[bool]:
    """Tell whether no run relies on a feature set or fills it, and let none begin to meanwhile."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            make_folder(folder, shared=True)
            stack.enter_context(_lock(folder))
        yield not is_used(folder, key)


def is_used(folder: Path, key: str) -> bool:
    """Tell whether a lease in `folder` says that its run fills the feature set, or relies on it."""
    for file in _list_leases(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), file.open("rb") as held:
            if key in json.loads(held.readline())["keys"] and not _has_expired(file, time.time()):
                return True
    return False


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[int]:
    with open_shared(folder / "lock") as opened:
        wait_for_lock(opened.fileno(), timeout_s=LOCK_TIMEOUT_S)
        yield opened.fileno()


def _list_leases(folder: Path) -> list[Path]:
    return [file for prefix in (_FILLING, _USING) for file in folder.glob(f"{prefix}*")]


def _has_expired(file: Path, now_s: float) -> bool:
    name = file.name.removeprefix(_FILLING).removeprefix(_USING)
    owner = Owner.parse(name.rpartition("-")[0])
    if owner is not None and owner.is_dead:
        return True
    return now_s - file.stat().st_mtime > EXPIRES_S
