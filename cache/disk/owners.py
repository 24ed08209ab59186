"""Which process a file belongs to: what a dead one left is cleared away, a live one's is not."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_NAME = re.compile(r"(?P<host>.*)-(?P<pid>\d+)-(?P<start>\d+)", re.DOTALL)
_INITIAL_NAMESPACE = "pid:[4026531836]"  # of Linux, outside of any container
_UNKNOWN_START = 0
_DEAD_STATES = (b"Z", b"X")  # A killed process is a zombie until its parent has looked.


@functools.cache
def name_host() -> str:
    """Name this machine, or the container.

    Containers that share their machine's name count their processes each for itself: another's
    process 7 is not ours, and may live while ours is dead.
    """
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
        if namespace != _INITIAL_NAMESPACE:
            return f"{socket.gethostname()}.{re.sub('[^0-9]', '', namespace)}"
    return socket.gethostname()


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes
    ----------
    host : str
    pid : int
    start : int
        When it started, in ticks since its machine did, as process numbers are used again; 0 where
        the system does not say.
    """

    host: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        return cls(name_host(), pid, _read_status(pid)[1])

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read what `str` wrote."""
        match = _NAME.fullmatch(name)
        return match and cls(match["host"], int(match["pid"]), int(match["start"]))

    def __str__(self) -> str:
        return f"{self.host}-{self.pid}-{self.start}"

    @property
    def is_dead(self) -> bool:
        """Whether it certainly no longer runs; nobody knows that of another machine's."""
        if self.host != name_host():
            return False
        if not is_alive(self.pid):
            return True
        known = _UNKNOWN_START, self.start
        return self.start != _UNKNOWN_START and _read_status(self.pid)[1] not in known


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _read_status(pid)[0] not in _DEAD_STATES


def _read_status(pid: int) -> tuple[bytes, int]:
    """Return a process' state and start; what the system does not say is empty."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return b"", _UNKNOWN_START
    # Its name comes first, in parentheses, and may hold anything.
    fields = text.rpartition(b")")[2].split()
    return fields[0], int(fields[19])
