"""Run one command: parse its arguments, print its outcome or one line on what went wrong."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from permafrost.cache.errors import CacheError
from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.cli.signals import INTERRUPTED, interrupt, list_signals
from permafrost.pipeline.errors import Interrupted, PipelineError
from permafrost.stages.errors import StageError

# A disk or a path that cannot be written is the user's to mend; other OSErrors are bugs.
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EIO: "the disk fails (input/output error)",
    errno.ESTALE: "the network file system lost a file that was open",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTDIR: "it is a file, not a folder",
    errno.EEXIST: "it is a file, not a folder",
    errno.ENAMETOOLONG: "the file name is too long",
}
_LONGEST_LINE = 2000
_BROKEN_PIPE_STATUS = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; as the process' own (without `arguments`), leave quickly after it.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0 done; 2 bad usage or input; 3 stopped by ``--on-error fail``, a damaged
        cache or a full disk; 128 and a signal's number. A bug leaves its traceback and status 1.
    """
    status = _run_guarded(arguments)
    if arguments is None:
        # The interpreter's last search for garbage takes more than a second among TensorFlow's
        # objects; so it finds none. What joblib and others leave for the end is done all the same.
        gc.freeze()
    return status


def _run_guarded(arguments: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        parsed = build_parser().parse_args(arguments)
        with _interruptible():
            return _run(parsed)
    except (StageError, CacheError, PipelineError) as error:
        return _complain(str(error), error.exit_status)
    except Interrupted as error:
        return _complain(INTERRUPTED, error.exit_status)
    except BrokenPipeError:
        # The reader of our output left, as `head` does; so does the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE_STATUS
    except OSError as error:
        reason = _DISK_ERRORS.get(_find_errno(error))
        if reason is None:
            raise
        place = f" ({error.filename})" if error.filename else ""
        return _complain(f"{reason}{place}; what was finished is kept", 3)


def _run(parsed: argparse.Namespace) -> int:
    outcome: Outcome = parsed.call(parsed)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    if parsed.json:
        print(json.dumps(outcome.figures))
    else:
        print(outcome.text)
    sys.stdout.flush()
    return outcome.status


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        # It repeats what a file says, which may be anything; the remedy is at the end.
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    print(f"permafrost: {line}", file=sys.stderr)
    return status


@contextmanager
def _interruptible() -> Iterator[None]:
    previous = {number: signal.signal(number, interrupt) for number in list_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _find_errno(error: OSError) -> int:
    """Return the error number, which HDF5 mentions in its message only."""
    if error.errno is not None:
        return error.errno
    return next((number for number in _DISK_ERRORS if f"errno = {number}," in str(error)), 0)
