"""Run one command: parse its arguments, print its outcome or one line on what went wrong."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from permafrost.cache.disk.publish import noting_changes
from permafrost.cache.errors import CacheError
from permafrost.pipeline.cli.groups import Outcome
from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.cli.reporting import find_reporting, open_log, reporting
from permafrost.pipeline.cli.signals import INTERRUPTED, interrupt, list_signals
from permafrost.pipeline.errors import BUG_STATUS, Interrupted, PipelineError, StoppedError
from permafrost.pipeline.progress import reporter, tell, write_log
from permafrost.pipeline.units import describe_seconds
from permafrost.refusals import PASSING, TRY_AGAIN_STATUS, find_errno, find_refusal
from permafrost.stages.errors import StageError
from permafrost.stages.frameworks.lean import claim_process

# What the user can mend, where the system's own words do not say how.
_REASONS = {
    errno.EMFILE: "too many files are open: raise the limit with ulimit -n 65536",
    errno.ENFILE: "too many files are open on this machine: run again later, or raise fs.file-max",
    errno.ENOMEM: "no memory is left: lower --memory or --batch-size, or end other programs",
    errno.EAGAIN: "no thread or process can be started: raise the limit with ulimit -u, or end"
    " other programs",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EIO: "the disk fails (input/output error): see to it; a file that stays unreadable can"
    " be moved away",
    errno.ESTALE: "the network file system lost a file that was open: run again",
    errno.ETIMEDOUT: "the file system did not answer in time: run again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied: allow it with chmod or chown",
    errno.EPERM: "operation not permitted: see to the owner and the flags of the file",
    errno.ENOENT: "no such file or folder: see to it, and to the folder that this runs in",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTDIR: "it is a file, not a folder",
    errno.EEXIST: "it is a file, not a folder",
    errno.ENAMETOOLONG: "the file name is too long",
}
_LONGEST_LINE = 2000
_BROKEN_PIPE_STATUS = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; as the process' own (without `arguments`), start and leave quickly.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status: 0 done; 2 bad usage or input; 3 stopped by ``--on-error fail``, a damaged
        cache or the like; 75 stopped by what may be better later, as a full disk; 128 and a
        signal's number. A bug leaves its traceback and status 1.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        claim_process()
    asked = find_reporting(given)
    with reporting(asked):
        status = _run_guarded(given, asked.log)
    if arguments is None:
        # The interpreter's last search for garbage takes more than a second among TensorFlow's
        # objects; so it finds none. What joblib and others leave for the end is done all the same.
        gc.freeze()
    return status


def _run_guarded(arguments: Sequence[str], log: Path | None) -> int:
    try:
        open_log(log)
        parsed = build_parser().parse_args(arguments)
        parsed.arguments = arguments
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
    except Exception as error:
        reason = _explain(error)
        if reason is None:
            if reporter.mode != "json":
                write_log("error", _describe_bug(error))
                raise  # Python itself shows it.
            return _tell_bug(error)
        status = TRY_AGAIN_STATUS if find_errno(error) in PASSING else StoppedError.exit_status
        return _complain(f"{reason}; what was finished is kept", status)


def _describe_bug(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _tell_bug(error: Exception) -> int:
    text, message = _describe_bug(error), f"{type(error).__name__}: {error}"
    tell("error", text, message=message, status=BUG_STATUS, traceback=text)
    return BUG_STATUS


def _run(parsed: argparse.Namespace) -> int:
    started_s = time.monotonic()
    with noting_changes() as changed:
        outcome: Outcome = parsed.call(parsed)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    if parsed.json:
        print(json.dumps(outcome.figures))
    else:
        print(outcome.text)
    sys.stdout.flush()
    is_skipped = not (changed or outcome.status or outcome.is_dry)
    status = (is_skipped and getattr(parsed, "skip_status", None)) or outcome.status
    seconds = round(time.monotonic() - started_s, 3)
    text = f"{parsed.command} ended with status {status} after {describe_seconds(seconds)}"
    figures = {"command": parsed.command, "status": status, "seconds": seconds}
    tell("done", text, shown="as JSON", **figures)
    return status


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        # It repeats what a file says, which may be anything; the remedy is at the end.
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    tell("error", f"permafrost: {line}", shown="error", message=line, status=status)
    return status


@contextmanager
def _interruptible() -> Iterator[None]:
    previous = {number: signal.signal(number, interrupt) for number in list_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _explain(error: Exception) -> str | None:
    """Return what the system refused, and the remedy; None of an error that is a bug."""
    refusal = find_refusal(error)
    text = _REASONS.get(find_errno(error)) or (refusal and refusal.strerror)
    if not text:
        return None
    reason, colon, remedy = text.partition(": ")
    file = getattr(error, "filename", None)
    return f"{reason}{f' ({file})' if file else ''}{colon}{remedy}"
