"""Matrices one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from permafrost.stages.matrices.joined import JoinedMatrix, StackedMatrix, stack_rows
from permafrost.stages.matrices.matrix import ArrayMatrix, Rows

N, WIDTH = 7, 23
VALUES = np.random.default_rng(0).normal(size=(3 * N, WIDTH)).astype(np.float32)


@dataclass(frozen=True)
class Uneven(ArrayMatrix):
    """Gives blocks that are wider and wider, whatever is asked for."""

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[NDArray[np.float32]]:
        start = 0
        for width in range(1, WIDTH):
            if start < WIDTH:
                yield self.values[rows, start : start + width]
            start += width


PARTS = [ArrayMatrix(VALUES[:N]), Uneven(VALUES[N : 2 * N]), ArrayMatrix(VALUES[2 * N :])]
STACKED = StackedMatrix(PARTS)
CHOICES = {
    "all": np.arange(3 * N),
    "scattered": np.array([20, 0, 9, 9, 1, 15]),
    "of two": stack_rows(np.array([3, 1]), n_rows=N, times=2),
    "of one": np.array([8, 7]),
}


@pytest.mark.parametrize("rows", CHOICES.values(), ids=CHOICES)
def test_rows_and_columns_are_those_of_one_array(rows: Rows) -> None:
    assert STACKED.shape == VALUES.shape
    np.testing.assert_array_equal(STACKED.read(rows), VALUES[rows])
    for n_bytes in (1, 200, 10**6):
        blocks = list(STACKED.iterate_columns(rows, n_bytes=n_bytes))
        np.testing.assert_array_equal(np.hstack(blocks), VALUES[rows])


def test_blocks_stay_within_their_bytes() -> None:
    plain = StackedMatrix([ArrayMatrix(VALUES[:N]), ArrayMatrix(VALUES[N : 2 * N])])
    rows = np.arange(2 * N)
    blocks = list(plain.iterate_columns(rows, n_bytes=560))
    assert max(block.nbytes for block in blocks) <= 560 // 2


def test_one_below_the_other_is_another_matrix_than_side_by_side() -> None:
    assert STACKED.key != JoinedMatrix(PARTS).key
    assert STACKED.key != StackedMatrix(PARTS[::-1]).key
