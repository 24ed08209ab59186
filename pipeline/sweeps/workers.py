"""The processes of a sweep and what they share, and the end of both with the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from pickle import PicklingError

from permafrost.cache.disk.publish import temporary_folder
from permafrost.pipeline.errors import UnavailableError
from permafrost.stages.evaluation.processes import Workers


@contextmanager
def open_workers(out: Path) -> Iterator[Workers]:
    """Yield processes, and leave neither them nor what they share behind.

    Parameters
    ----------
    out : Path
        A folder for what they share is made in it; those of killed sweeps are removed.

    Raises
    ------
    UnavailableError
        A process was killed, memory ran out, or there is no room in the folder.
    """
    with temporary_folder(out) as scratch, Workers(scratch.absolute()) as workers:
        try:
            yield workers
        except (BrokenExecutor, MemoryError) as error:
            raise UnavailableError(
                "memory ran out or a process was killed; what was finished is kept: sweep again"
                " with less --memory or fewer --jobs"
            ) from error
        except PicklingError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise UnavailableError(
                f"cannot write to {str(out)!r} what processes share; what was finished is kept:"
                " make room there, or sweep again with --jobs 1"
            ) from error
