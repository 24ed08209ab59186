"""Candidates fitted in several processes, which end with the one that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from permafrost.stages.evaluation.fold_task import FoldOutputs, FoldTask, run_task


def run_tasks(
    tasks: Iterator[FoldTask], *, n_jobs: int, scratch: Path | None
) -> Iterator[FoldOutputs]:
    """Run tasks in `n_jobs` processes, or in this one.

    Parameters
    ----------
    tasks : iterator of FoldTask
    n_jobs : int
    scratch : Path or None
        Folder for what processes share; needed for more than one.

    Yields
    ------
    FoldOutputs
        In no particular order, each as soon as it is there.
    """
    if n_jobs == 1:
        for task in tasks:
            yield from run_task(task)
        return
    from multiprocessing.resource_tracker import ensure_running

    from joblib import Parallel, delayed

    # Arrays go to the processes as maps of one file, which is dropped at the end. None is made
    # before a process can take it.
    parallel = Parallel(
        n_jobs=n_jobs,
        return_as="generator_unordered",
        temp_folder=str(scratch),
        max_nbytes="256K",
        mmap_mode="r",
        pre_dispatch=n_jobs,
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    # Ctrl-C reaches all processes of a terminal. Those that start now leave it to this one;
    # Python's resource tracker, when it starts, would unblock it again.
    ensure_running()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        outputs = parallel(delayed(run_task)(task) for task in tasks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    for found in outputs:
        yield from found


def _end_with(parent: int) -> None:
    """Let this process end with its parent, whose death would leave it waiting for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
