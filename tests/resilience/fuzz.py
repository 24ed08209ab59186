"""The fuzzer, for half a minute: what is read from others is a value or one line of our own."""

from __future__ import annotations

import itertools
import time

from tests.fuzz import TARGETS
from tests.fuzz.running import run_target
from tests.resilience.report import Result

_SECONDS = 40.0
_INPUTS_AT_ONCE = 50
_WHAT = "changed YAML, CSV, JSON, HDF5 and command lines: a right value or one line"


def run(seed: int) -> Result:
    """Change valid files and texts at random."""
    deadline_s = time.monotonic() + _SECONDS
    n_inputs, failures = 0, []
    for number in itertools.count(seed):
        for name, target in TARGETS.items():
            if time.monotonic() >= deadline_s:
                n_right = n_inputs - len(failures)
                return Result(what=_WHAT, injected=n_inputs, survived=n_right, failures=failures)
            try:
                n_inputs += run_target(target, n_inputs=_INPUTS_AT_ONCE, number=number).total()
            except Exception as error:  # noqa: BLE001 - it is what is looked for
                n_inputs += 1
                failures.append(f"{name}, seed {number}: {type(error).__name__}: {error}"[:500])
    raise AssertionError("time does not end")
