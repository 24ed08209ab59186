"""The exit status tells whether a rerun may help."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from permafrost.pipeline.errors import StoppedError, UnavailableError
from permafrost.stages.engines.program import OutOfMemoryError
from permafrost.stages.errors import UnreachableError
from tests.helpers.answers import Command

_PASSING = (
    *("ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EIO", "ESTALE"),
    *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH"),
)
_LASTING = (*("EACCES", "EPERM", "EROFS", "ENOENT", "EISDIR", "ENOTDIR", "EEXIST", "ENAMETOOLONG"),)


def _refusals(names: tuple[str, ...]) -> list[OSError]:
    numbers = [getattr(errno, name) for name in names]
    return [OSError(number, os.strerror(number), "/some/file") for number in numbers]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((error, 75) for error in _refusals(_PASSING)),
        *((error, 3) for error in _refusals(_LASTING)),
        (MemoryError(), 75),
        (OutOfMemoryError("a batch of 1 images"), 75),
        (RuntimeError("can't start new thread"), 75),
        (UnreachableError("no image could be read"), 75),
        (UnavailableError("the Dask cluster was lost"), 75),
        (StoppedError("more than half of the images"), 3),
    ],
    ids=repr,
)
def test_75_is_what_a_rerun_may_mend(
    error: Exception,
    status: int,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("permafrost.pipeline.upkeep.verify.verify", fail)
    answer = command("verify", "--cache", tmp_path)
    assert answer.status == status
    (line,) = answer.err.splitlines()
    assert line.startswith("permafrost: ")
