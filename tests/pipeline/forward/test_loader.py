"""How far ahead images are loaded."""

from __future__ import annotations

from permafrost.pipeline.forward.loader import choose_ahead
from permafrost.pipeline.options import RunOptions


def test_what_loads_ahead_fits_the_memory() -> None:
    run = RunOptions(workers=8, memory_bytes=100_000_000)
    assert choose_ahead(1, run) == 17
    assert choose_ahead(5_000_000, run) * 5_000_000 <= run.memory_bytes / 4
    assert choose_ahead(10**9, run) == 2
