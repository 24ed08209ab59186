"""Which process wrote a file, and whether it still lives: what a dead one left is cleared away."""

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
_DEAD_STATES = ("zombie", "dead")  # A killed process is a zombie until its parent has looked.
# A start that is reckoned from the clock comes out a second off when the clock is set just then.
_LEEWAY_S = 2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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

    `start` tells it from a later one with the same number: when it started, in the system's ticks,
    on Linux since the machine did, elsewhere since 1970; 0 where the system does not say.
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
        start = _read_status(self.pid)[1]
        if _UNKNOWN_START in (start, self.start):
            return False
        return abs(start - self.start) > _LEEWAY_S * _TICKS_PER_S


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _read_status(pid)[0] not in _DEAD_STATES


def _read_status(pid: int) -> tuple[str, int]:
    """Return a process' state and start; what the system does not say is empty."""
    import psutil  # Takes 11 ms, which `--help` need not wait for.

    try:
        # Linux counts ticks from its own start, whatever the clock is set to; psutil adds that.
        since_s = psutil.boot_time() if psutil.LINUX else 0
        process = psutil.Process(pid)
        return process.status(), round((process.create_time() - since_s) * _TICKS_PER_S)
    except psutil.ZombieProcess:
        return _DEAD_STATES[0], _UNKNOWN_START
    except (psutil.Error, OSError, RuntimeError):
        return "", _UNKNOWN_START
