"""How long to try when a server throttles, stumbles, or has gone."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from permafrost.stages.errors import InputError, UnreachableError

_Result = TypeVar("_Result")

# For one image; at a megabyte a second a camera's photo takes a tenth of it.
READ_TIMEOUT_S = 120
# Before each further attempt; half a minute in all outlasts throttling and a server's restart.
READ_WAITS_S: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
# Somebody is waiting for the answer, which is a wrong address more often than not; and one that
# nobody answers at is not asked again.
LIST_WAITS_S: tuple[float, ...] = (0.5, 1, 2)
# After attempts that took so long together there is none any more.
_PATIENCE_S = 150
# Without a single success for so long, the run ends, resumable, instead of failing on a million
# images one by one.
OUTAGE_S = 300

# Of the statuses that blame the request, those that another attempt may change.
_BUSY = (408, 425, 429)
_FINAL = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    InputError,
)


class _Outage:
    """Knows since when every reading in this process has failed."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._last_s = 0.0
        self._lock = threading.Lock()

    def note_success(self) -> None:
        self._since_s = None

    def note_failure(self) -> bool:
        """Return whether this has been going on for too long."""
        with self._lock:
            now_s = time.monotonic()
            if self._since_s is None:
                self._since_s = self._last_s = now_s
            # One reading does not take longer: this process was stopped.
            self._since_s += max(0.0, now_s - self._last_s - _PATIENCE_S)
            self._last_s = now_s
            return now_s - self._since_s > OUTAGE_S


_outage = _Outage()


def retry_reading(read: Callable[[], _Result], name: str) -> _Result:
    """Read until it succeeds.

    Raises
    ------
    OSError
        With the last reason.
    UnreachableError
        When no reading at all has succeeded for five minutes.
    """
    try:
        result = _retry(read, READ_WAITS_S, is_final=_is_final)
    # Whatever the libraries below raise: aiohttp and botocore have hierarchies of their own.
    except Exception as error:
        reason = explain(error)
        if _is_final(error):  # which is an answer
            _outage.note_success()
        elif _outage.note_failure():
            raise UnreachableError(
                f"no image could be read for {OUTAGE_S / 60:.0f} minutes, the last was {name!r}:"
                f" {reason}; what was finished is kept: run again once the server answers"
            ) from error
        # OSError makes a FileNotFoundError and the like of the number.
        raise OSError(_number(error), reason, name) from error
    _outage.note_success()
    return result


def retry_listing(find: Callable[[], _Result], root: str) -> _Result:
    """List until it succeeds; else raise `InputError`, or `UnreachableError` of a busy server."""
    try:
        return _retry(
            find, LIST_WAITS_S, is_final=lambda error: _is_final(error) or _is_silent(error)
        )
    # As above.
    except Exception as error:
        is_busy = find_status(error) is not None and not _is_final(error)
        raise (UnreachableError if is_busy else InputError)(
            f"cannot list {root!r}: {explain(error)}; check the address, the credentials in the"
            " environment, and the network"
        ) from error


def explain(error: BaseException) -> str:
    """Put an error of somebody else's in a line."""
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200].rstrip(".")
    return text or type(error).__name__


def find_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp's or of botocore's stands for."""
    for each in (error, error.__cause__):
        status = getattr(each, "status", None)
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return None


def _is_final(error: Exception) -> bool:
    """Whether another attempt would be told the same."""
    status = find_status(error) or 0
    return isinstance(error, _FINAL) or (400 <= status < 500 and status not in _BUSY)


def _is_silent(error: Exception) -> bool:
    """Whether nobody answered; those of botocore are none of Python's."""
    return isinstance(error, TimeoutError) or type(error).__name__.endswith("TimeoutError")


def _number(error: Exception) -> int:
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return errno.EACCES
    return getattr(error, "errno", None) or errno.EIO


def _retry(
    action: Callable[[], _Result],
    waits_s: tuple[float, ...],
    *,
    is_final: Callable[[Exception], bool],
) -> _Result:
    spent_s = 0.0
    for wait_s in waits_s:
        started_s = time.monotonic()
        try:
            return action()
        except Exception as error:
            # No attempt takes longer: this process was stopped, and its connections are gone.
            spent_s += wait_s + min(time.monotonic() - started_s, READ_TIMEOUT_S)
            if is_final(error) or spent_s > _PATIENCE_S:
                raise
        # At random, so that many readers do not come back all at once.
        time.sleep(wait_s * random.uniform(0.5, 1))
    return action()
