"""The signals that ask a run to stop, and how it stops before a command has started."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = "interrupted; what was finished is kept"


def list_signals() -> list[int]:
    """List the signals that ask a run to stop: Ctrl-C, kill, and a terminal that is closed."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup, or on Windows, there is no hanging up.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return list(map(int, numbers))


def leave_when_asked() -> None:
    """Have this process end at once, with one line, at any of these signals from now on.

    Until `main` handles them: before that there is nothing to commit.
    """
    for number in list_signals():
        signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"permafrost: {INTERRUPTED}\n".encode())
    os._exit(128 + number)
