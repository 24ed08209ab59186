"""What is told of a command, and where: set up before its own options are read."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from pathlib import Path

from permafrost.cache.disk.publish import make_folder
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.progress import PROGRESS_MODES, Reporter, reporter, tell

# What a child that outlives the command still writes is not waited for.
_LAST_WORDS_S = 1.0


def add_reporting(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that say what is told, and where."""
    group = parser.add_argument_group("what is told")
    group.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of stdout"
    )
    group.add_argument(
        "--progress", choices=PROGRESS_MODES, default="auto",
        help="on stderr: a bar, lines, lines of JSON, or none; auto is a bar on a terminal, lines"
        " elsewhere and in notebooks",
    )  # fmt: skip
    how_much = group.add_mutually_exclusive_group()
    how_much.add_argument(
        "-q", "--quiet", action="store_true",
        help="on stderr nothing but errors; the log, and lines of JSON, have all of it",
    )  # fmt: skip
    how_much.add_argument(
        "-v", "--verbose", action="store_true", help="also what is of interest when looking for why"
    )
    group.add_argument(
        "--log", type=Path, metavar="FILE",
        help="append what is told on stderr to a file, too, each line with its time",
    )  # fmt: skip


@contextmanager
def reporting(asked: argparse.Namespace) -> Iterator[None]:
    """Tell events as the options of `add_reporting` ask for, and warnings among them."""
    before = {one.name: getattr(reporter, one.name) for one in fields(Reporter)}
    # Our own modules tell what they otherwise keep to themselves; others would tell too much.
    logging.getLogger("permafrost").setLevel(logging.INFO if asked.verbose else logging.NOTSET)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Telling()])
    logging.captureWarnings(True)  # noqa: FBT003
    reporter.mode = asked.progress
    if asked.quiet and reporter.mode in ("auto", "bar"):
        reporter.mode = "none"
    reporter.is_quiet, reporter.is_verbose = asked.quiet, asked.verbose
    # A bar is drawn on stderr itself, whatever others write there.
    is_wrapped = (
        reporter.mode == "json" or asked.quiet or (asked.log is not None and not reporter.has_bar)
    )
    try:
        with _wrapping_stderr() if is_wrapped else nullcontext():
            yield
    finally:
        logging.captureWarnings(False)  # noqa: FBT003
        if reporter.log is not None:
            with suppress(OSError):  # as while it is written
                reporter.log.close()
        for name, value in before.items():
            setattr(reporter, name, value)


def find_reporting(arguments: Sequence[str]) -> argparse.Namespace:
    """Find these options among all; a wrong one is the command's parser to complain of."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_reporting(parser)
    with suppress(argparse.ArgumentError, SystemExit):
        return parser.parse_known_args(arguments)[0]
    return parser.parse_args([])


def open_log(file: Path | None) -> None:
    """Begin to write the log; `PipelineError` where that cannot be."""
    if file is None:
        return
    try:
        make_folder(file.absolute().parent)
        reporter.log = file.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PipelineError(
            f"--log {str(file)!r} cannot be written ({str(error.strerror).lower()}); name another"
            " file"
        ) from error


class _Telling(logging.Handler):
    """Tells what is logged, Python's own warnings included."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).rstrip()
        event = "warning" if record.levelno >= logging.WARNING else "note"
        tell(event, text, shown="always", message=text)


@contextmanager
def _wrapping_stderr() -> Iterator[None]:
    """Have all that others write to file descriptor 2, child processes too, told as events."""
    sys.stderr.flush()
    reporter.descriptor = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    wrapping = threading.Thread(target=_wrap, args=(reading,), daemon=True)
    wrapping.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(reporter.descriptor, 2)
        wrapping.join(_LAST_WORDS_S)


def _wrap(reading: int) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="backslashreplace") as lines:
        for line in filter(str.strip, lines):
            tell("log", line.rstrip(), shown="always")
