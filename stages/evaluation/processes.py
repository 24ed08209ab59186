"""Candidates fitted in several processes, which end with the one that started them.

Each process is spoken to over a socket of its own. So one that is killed, at whatever moment,
leaves neither a lock that others wait for nor half of an answer: its socket ends, and so does the
wait.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import numpy as np

from permafrost.command import HOME
from permafrost.cores import count_cores
from permafrost.stages.evaluation.fold_task import FoldOutputs, FoldTask, run_task

# Arrays of this size or more lie in a file that all processes map.
_SHARED_BYTES = 256 * 1024
# What libraries of linear algebra read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_LOOK_S = 1.0


def run_tasks(
    tasks: Iterator[FoldTask], *, n_jobs: int, workers: Workers | None
) -> Iterator[FoldOutputs]:
    """Run tasks in `n_jobs` processes, or in this one.

    Parameters
    ----------
    workers : Workers or None
        Needed for more than one.

    Yields
    ------
    FoldOutputs
        In no particular order, each as soon as it is there.

    Raises
    ------
    BrokenProcessPool
        A process was killed.
    PicklingError
        The folder that processes share cannot be written; its cause is the `OSError`.
    """
    if n_jobs == 1 or workers is None:
        for task in tasks:
            yield from run_task(task)
    else:
        yield from workers.run(tasks, n_jobs=n_jobs)


@dataclass(slots=True)
class Workers:
    """Processes that run tasks: started when first needed, kept until the end.

    Parameters
    ----------
    folder : Path
        For the arrays that processes share; whoever made it removes it.
    """

    folder: Path
    _all: list[_Worker] = field(default_factory=list)
    _files: dict[int, Path] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.end()
        self._all.clear()

    def run(self, tasks: Iterator[FoldTask], *, n_jobs: int) -> Iterator[FoldOutputs]:
        """Run tasks in `n_jobs` processes; see `run_tasks`."""
        while len(self._all) < n_jobs:
            self._all.append(_Worker(n_jobs))
        idle, busy = self._all[:n_jobs], dict[Connection, _Worker]()
        found: list[FoldOutputs] = []
        try:
            while True:
                # Before what was found is worked on, so that no process waits for that.
                for task in islice(tasks, len(idle)):
                    worker = idle.pop()
                    busy[worker.connection] = worker
                    worker.ask(*self._pickle(task))
                yield from found
                if not busy:
                    return
                found = []
                for ready in wait(list(busy)):
                    worker = busy.pop(cast(Connection, ready))
                    found += worker.hear()
                    idle.append(worker)
        finally:
            for worker in busy.values():  # Nobody wants what they are still at.
                worker.end()
            self._all = [one for one in self._all if one not in busy.values()]

    def _pickle(self, task: FoldTask) -> tuple[bytes, list[np.ndarray]]:
        """Return a task in bytes, and the arrays whose files these name."""
        stream = io.BytesIO()
        pickler = _Pickler(stream, self._keep)
        try:
            pickler.dump(task)
        except OSError as error:
            raise pickle.PicklingError(f"cannot write to {str(self.folder)!r}") from error
        return stream.getvalue(), pickler.arrays

    def _keep(self, array: np.ndarray) -> Path:
        """Write an array to a file of its own, once; the file goes when the array does."""
        number = id(array)
        if number not in self._files:
            file = self.folder / f"{number}-{time.monotonic_ns()}.npy"
            np.save(file, array)
            self._files[number] = file
            weakref.finalize(array, self._drop, number).atexit = False
        return self._files[number]

    def _drop(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._files.pop(number).unlink()


class _Pickler(pickle.Pickler):
    """Writes large arrays as names of files, which `keep` returns; `arrays` are those arrays."""

    def __init__(self, stream: io.BytesIO, keep: Callable[[np.ndarray], Path]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._keep = keep
        self.arrays: list[np.ndarray] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.nbytes < _SHARED_BYTES:
            return NotImplemented
        self.arrays.append(value)
        return np.load, (self._keep(value), "r")


class _Worker:
    """One process; `n_jobs` is how many share the cores."""

    def __init__(self, n_jobs: int) -> None:
        ours, theirs = socket.socketpair()
        n_threads = str(max(1, count_cores() // n_jobs))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=HOME,
                env=dict.fromkeys(_THREADS, n_threads) | os.environ,
                # A signal to the group, as of Ctrl-C, is for this process to answer.
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self._arrays: list[np.ndarray] = []

    def ask(self, task: bytes, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays  # Their files stay until they are read.
        with _explained():
            self.connection.send_bytes(task)

    def hear(self) -> list[FoldOutputs]:
        with _explained():
            told = self.connection.recv_bytes()
        answer: list[FoldOutputs] | Exception = pickle.loads(told)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise BrokenProcessPool("a process was killed") from error


def main(owner: int) -> NoReturn:
    """Run what comes in on standard input, a socket, until it or the process `owner` ends."""
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    connection = Connection(os.dup(sys.stdin.fileno()))
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task: FoldTask = pickle.loads(connection.recv_bytes())
            connection.send_bytes(_answer(task))
            del task
    os._exit(0)


def _answer(task: FoldTask) -> bytes:
    try:
        return pickle.dumps(run_task(task))
    except Exception as error:  # noqa: BLE001
        try:
            return pickle.dumps(error)
        except Exception:  # noqa: BLE001
            return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with(owner: int) -> None:
    """End this process with its owner, while it is at a task and hears nothing of its socket."""
    while os.getppid() == owner:
        time.sleep(_LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
