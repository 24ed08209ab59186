"""Programs that halve a batch which does not fit, and programs of several devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from permafrost.stages.engines.program import HalvingProgram, OutOfMemoryError, SharedPrograms


def test_a_batch_that_does_not_fit_is_halved_once_for_all() -> None:
    seen: list[int] = []

    def program(batch: np.ndarray) -> list[np.ndarray]:
        seen.append(len(batch))
        if len(batch) > 3:
            raise OutOfMemoryError
        return [batch * 2, batch + 1]

    halving = HalvingProgram(program)
    for _ in range(2):
        doubled, raised = halving(np.arange(8))
        np.testing.assert_array_equal(doubled, 2 * np.arange(8))
        np.testing.assert_array_equal(raised, np.arange(8) + 1)
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_one_image_that_does_not_fit_is_an_error() -> None:
    def program(batch: np.ndarray) -> list[np.ndarray]:
        raise OutOfMemoryError(str(len(batch)))

    with pytest.raises(OutOfMemoryError, match="1"):
        HalvingProgram(program)(np.arange(8))


def test_batches_go_to_whichever_device_is_free() -> None:
    together = threading.Barrier(2)
    ran = []

    def make(name: str) -> Callable[[np.ndarray], list[np.ndarray]]:
        def program(batch: np.ndarray) -> list[np.ndarray]:
            together.wait(60)
            ran.append(name)
            return [batch + 1]

        return program

    shared = SharedPrograms([make("a"), make("b")])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(shared, np.arange(8).reshape(4, 2)))
    np.testing.assert_array_equal(np.stack(found)[:, 0], np.arange(8).reshape(4, 2) + 1)
    assert sorted(ran) == ["a", "a", "b", "b"]


def test_a_device_that_fails_is_free_for_the_next_batch() -> None:
    def program(batch: np.ndarray) -> list[np.ndarray]:
        if len(batch) > 2:
            raise OutOfMemoryError("a batch of 4 images")
        return [batch]

    halving = HalvingProgram(SharedPrograms([program]))
    np.testing.assert_array_equal(halving(np.arange(4))[0], np.arange(4))
