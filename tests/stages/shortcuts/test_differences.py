"""Errors between programs, on arrays whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.stages.shortcuts.differences import measure_errors


def test_errors_are_relative_to_the_reference_over_all_batches() -> None:
    batches = [np.array([[1], [2]], np.uint8), np.array([[4]], np.uint8)]

    def reference(batch: np.ndarray) -> list[np.ndarray]:
        return [-batch.astype(np.float32), np.zeros(batch.shape, np.float32)]

    def program(batch: np.ndarray) -> list[np.ndarray]:
        return [-batch.astype(np.float32) + (batch == 2), np.zeros(batch.shape, np.float32)]

    first, second = measure_errors(program, reference, batches)
    assert first == pytest.approx((1 / 4, 1 / 7))
    assert second == (0, 0)


def test_values_beyond_the_range_are_no_small_error() -> None:
    batch = np.ones((2, 3), np.uint8)
    ((largest, mean),) = measure_errors(
        lambda batch: [batch * np.float32(np.inf)],
        lambda batch: [batch.astype(np.float32)],
        [batch],
    )
    assert largest == mean == np.inf
