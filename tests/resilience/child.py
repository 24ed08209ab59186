"""``python run.py …`` in a process of its own that starts at once.

TensorFlow takes four seconds to import. Python's fork server imports everything once
(`tests.resilience.preload`) and forks a fresh process for each command.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 120.0
# A status comes through a pipe, once; starting a process looks at those of all others too.
_one_reads = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended: `status` is negative, as -9, where a signal ended it."""

    status: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON object that ``--json`` prints."""
        figures: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return figures

    @property
    def last_line(self) -> str:
        """What it said last."""
        return (self.err.splitlines() or [""])[-1]


def do_nothing() -> None:
    """Prepare for nothing in particular."""


class Child:
    """A command that is running, in a process group of its own.

    Parameters
    ----------
    arguments : sequence of object
        As after ``run.py``.
    output : Path
        A folder for what it prints; made if it is missing.
    prepare : callable
        Called in the process before the command: a function of a module, or a `functools.partial`
        of one.
    """

    _counter = 0

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        output: Path,
        prepare: Callable[[], None] = do_nothing,
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        Child._counter += 1
        self._out, self._err = (output / f"{Child._counter}.{end}" for end in ("out", "err"))
        texts = [str(argument) for argument in arguments]
        self._process = _fork_server().Process(
            target=_run, args=(texts, self._out, self._err, prepare)
        )
        with _one_reads:
            self._process.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        with _one_reads:
            return self._process.is_alive()

    def signal(self, number: int) -> None:
        """Send a signal to the process; harmless once it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all that it started, as a terminal does."""
        try:
            os.killpg(self._process.pid or 0, number)
        except ProcessLookupError:
            # It has ended, or has no group yet.
            self.signal(number)

    def wait_until_ready(self) -> None:
        """Wait until it took signals into its own hands, or ended."""
        while self.is_running and not is_ready(self._process.pid or 0):
            time.sleep(0.0005)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it ends, or for some time; tell whether it ended."""
        connection.wait([self._process.sentinel], timeout_s)
        return not self.is_running

    def end(self) -> Ending:
        """Wait until it ends; what hangs is killed, and ends with -9."""
        if not self.wait(TIME_LIMIT_S):
            self.signal_group(signal.SIGKILL)
            self.wait(TIME_LIMIT_S)
        out, err = (
            file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            for file in (self._out, self._err)
        )
        return Ending(self._process.exitcode or 0, out, err)


def run(arguments: Sequence[object], *, output: Path, **how: Any) -> Ending:
    """Run a command to its end."""
    return Child(arguments, output=output, **how).end()


def is_ready(pid: int) -> bool:
    """Tell whether a process has a handler for SIGTERM, which Python itself has not."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.resilience.preload"])
    return context


def _run(arguments: list[str], out: Path, err: Path, prepare: Callable[[], None]) -> None:
    os.setsid()
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from run import main

    sys.argv = ["run.py", *arguments]
    prepare()
    status = main()
    # As the end of an interpreter, which processes that are forked do not come to.
    atexit._run_exitfuncs()
    sys.exit(status)
