"""One command, disturbed at one random moment."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.resilience.child import Child, Ending
from tests.resilience.jobs import Job
from tests.resilience.looks import Look

# One more than a small machine has cores: each waits for the disk now and then.
_N_AT_ONCE = 3
# Of the time that a command takes when it is not disturbed; later, many would have ended.
_LATEST = 0.9
# What Python tells of files that come, go and change their names.
_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "sqlite3.connect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One command and the moment at which a signal comes.

    Attributes
    ----------
    name : str
    job : Job
    folder : Path
        Where it runs.
    number : int
        The signal.
    moment : float or int
        Seconds after the command took signals into its own hands, or the number of the file
        operation before which the process sends the signal to itself.
    expected : Look
        What it leaves when it is not disturbed.
    """

    name: str
    job: Job
    folder: Path
    number: int
    moment: float | int
    expected: Look

    def describe(self, wrong: Sequence[str]) -> str:
        """Say in one line what is wrong, and with what; nothing if nothing is."""
        if not wrong:
            return ""
        unit = "operation" if isinstance(self.moment, int) else "second"
        name = signal.Signals(self.number).name
        return f"{self.name}, {name} at {unit} {self.moment:.6g}: {'; '.join(wrong)}"

    def disturb(self, folder: Path, send: Callable[[Child, int], None] = Child.signal) -> Ending:
        """Run the command, and send the signal when the moment has come."""
        if isinstance(self.moment, int):
            prepare = partial(watch_operations, str(folder), os.devnull, self.moment, self.number)
            return self.job.begin(folder, prepare).end()
        child = self.job.begin(folder)
        child.wait_until_ready()
        child.wait(self.moment)
        send(child, self.number)
        return child.end()


def plan_trials(
    name: str, job: Job, numbers: Sequence[int], *, seed: int, scratch: Path
) -> Iterator[Trial]:
    """Run a command undisturbed, and choose moments: half by the clock, half by operations.

    Parameters
    ----------
    name : str
    job : Job
    numbers : sequence of int
        The signal of each trial.
    seed : int
    scratch : Path
    """
    folder = job.fresh(scratch / f"{name}-undisturbed")
    log = scratch / f"{name}.operations"
    started_s = time.monotonic()
    ending = job.begin(folder, partial(watch_operations, str(folder), str(log))).end()
    seconds = time.monotonic() - started_s
    assert ending.status == 0, ending.err
    expected = job.look(folder)
    chance = random.Random(f"{seed} {name}")
    for count_, number in enumerate(numbers):
        # A moment by the clock may come too late, on a machine that is busier just now.
        by_clock = count_ % 2 == 1
        yield Trial(
            name=name,
            job=job,
            folder=scratch / f"{name}-{count_}",
            number=number,
            moment=chance.uniform(0, _LATEST * seconds)
            if by_clock
            else chance.randint(1, log.stat().st_size),
            expected=expected,
        )


def watch_operations(
    folder: str, log: str, last: int | None = None, number: int = signal.SIGKILL
) -> None:
    """Write a byte into `log` for each operation on files in `folder`; before one, send a signal.

    Parameters
    ----------
    folder, log : str
    last : int, optional
        Which one, from 1 on; by default none.
    number : int
        The signal.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = count(1)

    def note(event: str, arguments: Sequence[object]) -> None:
        if event not in _OPERATIONS or not str(arguments[0]).startswith(folder):
            return
        os.write(descriptor, b".")
        if next(numbers) == last:
            os.kill(os.getpid(), number)

    sys.addaudithook(note)


def try_all(attempt: Callable[[Trial], str | None], trials: Sequence[Trial]) -> list[str]:
    """Return of each trial what was wrong; leave out those whose signal came too late."""
    with ThreadPoolExecutor(_N_AT_ONCE) as threads:
        return [wrong for wrong in threads.map(attempt, trials) if wrong is not None]
