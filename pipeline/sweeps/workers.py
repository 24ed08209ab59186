"""The scratch folder that the processes of a sweep share, and the end of both with the sweep."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from pickle import PicklingError

from permafrost.cache.disk.publish import temporary_folder
from permafrost.pipeline.errors import StoppedError


@contextmanager
def open_scratch(out: Path, *, n_jobs: int) -> Iterator[Path]:
    """Yield a folder for what processes share, and leave neither it nor them behind.

    Parameters
    ----------
    out : Path
        The folder is made in it; those of killed sweeps are removed.
    n_jobs : int
        Processes that joblib may start meanwhile.

    Raises
    ------
    StoppedError
        A process was killed, memory ran out, or there is no room in the folder.
    """
    # Joblib warns of tasks that are dropped, which whoever interrupts a sweep knows. The filter
    # stays: tasks may be dropped as late as when the process ends.
    warnings.filterwarnings("ignore", message=".* tasks which were still being processed")
    with temporary_folder(out) as scratch, _ending_processes(n_jobs):
        try:
            yield scratch
        except (BrokenExecutor, MemoryError) as error:
            raise StoppedError(
                "memory ran out or a process was killed; what was finished is kept: sweep again"
                " with less --memory or fewer --jobs"
            ) from error
        except PicklingError as error:
            if "OSError" not in str(error.__cause__):
                raise
            raise StoppedError(
                f"cannot write to {str(out)!r} what {n_jobs} processes share; what was finished is"
                " kept: make room there, or sweep again with --jobs 1"
            ) from error


@contextmanager
def _ending_processes(n_jobs: int) -> Iterator[None]:
    if n_jobs == 1:
        yield
        return
    # Imported now, as it cannot be once an interrupt came in the middle of joblib's own imports.
    from joblib.externals.loky import get_reusable_executor

    try:
        yield
    finally:
        # Joblib keeps idle processes for five minutes: with their memory, and with our output, for
        # whose end `run.py sweep | tee log` waits.
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
