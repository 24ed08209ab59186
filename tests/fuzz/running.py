"""Run a target on many inputs: a value or an error of our own, in one line and in time."""

from __future__ import annotations

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from permafrost.cache.errors import CacheError
from permafrost.pipeline.errors import PipelineError
from permafrost.stages.errors import StageError
from tests.fuzz.texts import REFUSED, Target

OWN_ERRORS = (StageError, CacheError, PipelineError)
TIME_LIMIT_S = 30


def run_target(target: Target, *, n_inputs: int, number: int | None = None) -> Counter[str]:
    """Try a target.

    Parameters
    ----------
    target : Target
    n_inputs : int
    number : int, optional
        Chooses the inputs; without one they are always the same.

    Returns
    -------
    Counter
        How many were ``read`` and ``refused``.

    Raises
    ------
    Exception
        Whatever else came of an input, which Hypothesis has made smaller and prints.
    """
    outcomes: Counter[str] = Counter()
    options = settings(
        max_examples=n_inputs,
        derandomize=number is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        @options
        @given(target.inputs)
        def check(content: Any) -> None:
            outcomes[_try(target, content, Path(folder))] += 1

        (seed(number)(check) if number is not None else check)()
    return outcomes


def _try(target: Target, content: Any, folder: Path) -> str:
    try:
        with _limit_time():
            return "refused" if target.read(content, folder) == REFUSED else "read"
    except OWN_ERRORS:
        return "refused"


@contextmanager
def _limit_time() -> Iterator[None]:
    previous = signal.signal(signal.SIGALRM, _complain)
    signal.alarm(TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _complain(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"it takes more than {TIME_LIMIT_S} s")
