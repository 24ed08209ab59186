"""Disks that are full, fail, or have a quota: one line, status 75, and all goes on afterwards."""

from __future__ import annotations

import errno
import math
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.resilience.child import Ending
from tests.resilience.jobs import (
    Job,
    Look,
    list_jobs,
    list_unfinished,
    set_scene,
)
from tests.resilience.report import Result, sum_up
from tests.resilience.trials import try_all

# How many times each command's writes fail, half by a limit on the size of files.
COUNTS = {
    "extract": 24,
    "sweep": 10,
    "compact": 8,
    "repair": 8,
    "gc": 6,
    "predict": 8,
    "fit": 8,
    "export": 4,
    "index": 4,
}
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
# What is said must fit.
_SMALLEST_LIMIT = 4096
_WRITING = os.O_WRONLY | os.O_RDWR


def run(seed: int) -> Result:
    """Let writes of every command fail."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(set_scene(Path(scratch) / "scene"))
        trials = [
            trial
            for name, n in COUNTS.items()
            for trial in plan_failures(name, jobs[name], n=n, seed=seed, scratch=Path(scratch))
        ]
        outcomes = try_all(fail, trials)
    return sum_up(
        f"full and failing disk (ENOSPC, EDQUOT, EIO, EFBIG) under {', '.join(COUNTS)}:"
        " one line, status 75; run again with space: the same",
        outcomes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One command on a disk that fails.

    Attributes
    ----------
    name : str
    job : Job
    folder : Path
    prepare : callable
        Makes writing fail, in the process of the command.
    what : str
        How.
    expected : Look
    """

    name: str
    job: Job
    folder: Path
    prepare: Callable[[], None]
    what: str
    expected: Look


def plan_failures(name: str, job: Job, *, n: int, seed: int, scratch: Path) -> Iterator[Failure]:
    """Run a command undisturbed, and choose sizes and operations at which writing fails."""
    folder, log = job.fresh(scratch / f"{name}-undisturbed"), scratch / f"{name}.writes"
    ending = job.begin(folder, partial(fail_write, str(folder), str(log))).end()
    assert ending.status == 0, ending.err
    expected, n_writes = job.look(folder), log.stat().st_size
    largest = max(path.stat().st_size for path in folder.rglob("*"))
    chance = random.Random(f"{seed} {name}")
    for number in range(n):
        at = scratch / f"{name}-{number}"
        if number % 2:
            size = int(math.exp(chance.uniform(math.log(_SMALLEST_LIMIT), math.log(largest))))
            prepare, what = partial(limit_file_size, size), f"files limited to {size} bytes"
        else:
            last, error = chance.randint(1, n_writes), chance.choice(ERRORS)
            prepare = partial(fail_write, str(at), os.devnull, last, error)
            what = f"{errno.errorcode[error]} at write {last} of {n_writes}"
        yield Failure(name=name, job=job, folder=at, prepare=prepare, what=what, expected=expected)


def limit_file_size(size: int) -> None:
    """Let this process write no larger files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fail_write(folder: str, log: str, last: int | None = None, error: int = 0) -> None:
    """Write a byte into `log` for each step of writing in `folder`; from one on, they fail.

    The steps are those that a file system may refuse: opening to write, making folders, renaming
    and synchronizing.

    Parameters
    ----------
    folder, log : str
    last : int, optional
        Which one fails, from 1 on, and the next ones too, as on a disk that is full; by default
        none.
    error : int
        As in `errno`.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = count(1)
    fsync = os.fsync

    def step(path: object) -> None:
        os.write(descriptor, b".")
        if last is not None and next(numbers) >= last:
            raise OSError(error, os.strerror(error), str(path))

    def note(event: str, arguments: Sequence[object]) -> None:
        is_write = event in ("os.mkdir", "os.rename") or (
            event == "open" and int(str(arguments[2])) & _WRITING
        )
        if is_write and str(arguments[0]).startswith(folder):
            step(arguments[0])

    def sync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").readlink()
        if path.is_relative_to(folder):
            step(path)
        fsync(number)

    sys.addaudithook(note)
    os.fsync = sync  # type: ignore[assignment]


def fail(failure: Failure) -> str:
    """Let one command's writing fail, look at what it says and leaves, and run it again."""
    folder = failure.job.fresh(failure.folder)
    ending = failure.job.begin(folder, failure.prepare).end()
    if ending.status == 0:
        # What can be done without, as the index, may fail without harm.
        wrong = failure.job.find_wrong(folder, ending, failure.expected)
    else:
        wrong = find_wrong_words(ending)
        wrong += [f"{name} is left at once" for name in list_unfinished(folder)]
        again = failure.job.finish(folder)
        wrong += failure.job.find_wrong(folder, again, failure.expected)
    shutil.rmtree(folder)
    return f"{failure.name}, {failure.what}: {'; '.join(wrong)}" if wrong else ""


def find_wrong_words(ending: Ending) -> list[str]:
    """Say what is wrong with how a command ended that could not write."""
    wrong = []
    if ending.status != 75:
        wrong.append(f"status {ending.status}")
    # A repair that mends what it can tells on stdout what is left.
    is_told = ending.last_line.startswith("permafrost: ") or ending.out
    if "Traceback" in ending.err or not is_told:
        wrong.append(f"it said {ending.err[-600:]!r}")
    return wrong
