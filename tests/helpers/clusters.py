"""A Dask scheduler and workers, started from the shell as people start them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.helpers import ROOT

_START_S = 60.0


class DaskCluster:
    """A scheduler, and as many workers as are started.

    Parameters
    ----------
    folder : Path
        For logs and scratch files.
    environment : mapping of str to str
        Of the scheduler, besides that of this process.
    host : str
        Where the scheduler is reached.
    before : tuple of str
        What to start it with, as in another network.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        host: str = "127.0.0.1",
        before: tuple[str, ...] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        options = ("--host", host, "--port", "0", "--no-dashboard")
        self.scheduler = self._start(
            *("scheduler", *options, "--scheduler-file", file),
            environment=environment,
            before=before,
        )
        wait_for(lambda: file.exists() and bool(file.read_text()))
        self.address: str = json.loads(file.read_text())["address"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            end_tree(process.pid)
            process.wait()

    def add_worker(
        self,
        *options: object,
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a worker with one thread, and wait until the scheduler knows it."""
        n_before = len(self.list_workers())
        process = self.start_worker(*options, environment=environment, before=before)
        wait_for(lambda: len(self.list_workers()) > n_before)
        return process

    def start_worker(
        self,
        *options: object,
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a worker with one thread."""
        return self._start(
            *("worker", self.address, "--nthreads", 1, "--no-dashboard", "--memory-limit", 0),
            *("--local-directory", self.folder / f"scratch-{len(self._processes)}", *options),
            environment=environment,
            before=before,
        )

    def list_workers(self) -> dict[str, int]:
        """Return the address of each worker, and the id of its process."""
        from distributed import Client

        with Client(self.address) as client:
            return dict(client.run(os.getpid))

    def run_on_workers(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Run a lambda on each worker, by address."""
        from distributed import Client

        with Client(self.address) as client:
            return dict(client.run(function))

    def _start(
        self,
        kind: str,
        *options: object,
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self._processes)}-{kind}.log").open("wb")
        process = subprocess.Popen(
            [
                *(*before, sys.executable, "-m", f"distributed.cli.dask_{kind}"),
                *map(str, options),
            ],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=log,
            stderr=log,
        )
        self._processes.append(process)
        return process


def end_tree(pid: int) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(pid)
        for process in (family, *family.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
                process.kill()


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end_s = time.monotonic() + _START_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@contextlib.contextmanager
def hiding(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield what to start a process with so that it sees an empty folder in a place."""
    script = f'mount -t tmpfs none "{folder}" && exec "$@"'
    if shutil.which("unshare") is None:
        import pytest

        pytest.skip("there is no unshare")
    yield ("unshare", "--mount", "sh", "-c", script, "sh")
