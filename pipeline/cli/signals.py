"""The signals that ask a run to stop, and how it stops before a command has started."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from permafrost.pipeline.errors import Interrupted
from permafrost.pipeline.progress import encode_event, reporter

INTERRUPTED = "interrupted; what was finished is kept"
_AGAIN = "interrupted again; what was committed is kept"
# A terminal and a program in between, as ``uv run``, may both pass on one Ctrl-C; and a terminal
# that is closed may say so twice.
_ONE_PRESS_S = 0.25


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


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Raise `Interrupted`, once: what follows is the commit of what is finished.

    Who asks again does not want to wait for it, nor for a server that never answers.
    """
    asked_s = time.monotonic()

    def leave_when_asked_again(_number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - asked_s > _ONE_PRESS_S:
            _end(number, _AGAIN)

    for other in list_signals():
        signal.signal(other, leave_when_asked_again)
    raise Interrupted(number)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    _end(number, INTERRUPTED)


def _end(number: int, message: str) -> NoReturn:
    with suppress(OSError):  # whoever read what this says may have gone
        line = f"permafrost: {message}\n".encode()
        if reporter.mode == "json":
            line = encode_event("error", message=message, status=128 + number)
        os.write(reporter.descriptor, line)
    os._exit(128 + number)
