"""How many images at a time fit the memory."""

from __future__ import annotations

from permafrost.pipeline.planning.missing import choose_batch_size


def test_the_batch_size_fits_the_memory() -> None:
    for memory_bytes in (10**7, 10**9, 4 * 10**9):
        for activation_bytes, kept_bytes in ((12_845_056, 2048), (12_845_056, 25_690_112)):
            n = choose_batch_size(
                activation_bytes, kept_bytes=kept_bytes, memory_bytes=memory_bytes, largest=32
            )
            assert 1 <= n <= 32
            assert n == 1 or 3 * n * (activation_bytes + kept_bytes) <= memory_bytes
    assert choose_batch_size(1, kept_bytes=1, memory_bytes=10**9, largest=32) == 32
