from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.stream import learn_columns, leave_for_rows, open_stream

N_ROWS, N_FEATURES = 3000, 500
ROW_BYTES = N_FEATURES * 4
# Row i holds i, i + 1, …: each tells which one it is.
VALUES = np.add.outer(np.arange(N_ROWS), np.arange(N_FEATURES)).astype(np.float32)
SMALL = N_ROWS * ROW_BYTES // 10
LARGE = N_ROWS * ROW_BYTES * 2


class CountedMatrix(ArrayMatrix):
    """Remembers which rows each read asked for."""

    def __init__(self, values):
        super().__init__(values)
        object.__setattr__(self, "reads", [])

    def read(self, rows):
        self.reads.append(np.array(rows))
        return super().read(rows)


class BrokenMatrix(ArrayMatrix):
    def read(self, rows):
        if 1234 in rows:
            raise OSError("the disk is gone")
        return super().read(rows)


def take(stream, n_rows=64, positions=None, seed=0):
    rng = None if seed is None else np.random.default_rng(seed)
    positions = np.arange(len(stream)) if positions is None else positions
    return list(stream.batches(positions, n_rows, rng=rng))


def list_positions(batches):
    return np.concatenate([positions for positions, _ in batches])


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
@pytest.mark.parametrize("seed", [None, 0])
def test_each_row_comes_exactly_once_and_under_its_own_position(n_bytes, seed):
    rows = np.arange(5, N_ROWS, 3)
    stream = open_stream(ArrayMatrix(VALUES), rows, n_bytes=n_bytes)
    wanted = np.flatnonzero(rows % 2)
    batches = take(stream, positions=wanted, seed=seed)
    np.testing.assert_array_equal(np.sort(list_positions(batches)), wanted)
    for positions, features in batches:
        assert len(features) <= 64
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, VALUES[rows[positions]])


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_only_the_last_batch_is_not_full(n_bytes):
    batches = take(open_stream(ArrayMatrix(VALUES), np.arange(N_ROWS), n_bytes=n_bytes))
    assert {len(positions) for positions, _ in batches[:-1]} == {64}


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_a_seed_repeats_the_order_and_another_one_changes_it(n_bytes):
    stream = open_stream(ArrayMatrix(VALUES), np.arange(N_ROWS), n_bytes=n_bytes)
    first, again, other = (list_positions(take(stream, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.01


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_without_a_seed_the_rows_come_in_order(n_bytes):
    stream = open_stream(ArrayMatrix(VALUES), np.arange(N_ROWS), n_bytes=n_bytes)
    np.testing.assert_array_equal(list_positions(take(stream, seed=None)), np.arange(N_ROWS))


def test_rows_that_lie_class_by_class_are_mixed():
    stream = open_stream(ArrayMatrix(VALUES), np.arange(N_ROWS), n_bytes=SMALL)
    shares = [np.mean(positions < N_ROWS / 2) for positions, _ in take(stream)]
    assert all(0.1 < share < 0.9 for share in shares[:-1])


def test_rows_that_fit_are_read_once():
    matrix = CountedMatrix(VALUES)
    stream = open_stream(matrix, np.arange(N_ROWS), n_bytes=LARGE)
    for seed in range(3):
        take(stream, seed=seed)
    np.testing.assert_array_equal(np.concatenate(matrix.reads), np.arange(N_ROWS))


def test_reads_are_runs_of_neighbours(monkeypatch):
    monkeypatch.setattr("permafrost.stages.matrices.stream.MIX_BYTES", N_ROWS * 40)
    matrix = CountedMatrix(np.tile(VALUES[:, :10], (10, 1)))
    take(open_stream(matrix, np.arange(10 * N_ROWS), n_bytes=4 * N_ROWS * 40))
    reads = np.concatenate(matrix.reads)
    assert np.mean(np.diff(reads) == 1) > 0.95


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_stays_within_what_was_given(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.tile(VALUES, (4, 1)).astype(dtype))
    matrix = ArrayMatrix(np.load(tmp_path / "x.npy", mmap_mode="r"))
    everything = np.arange(4 * N_ROWS)
    n_bytes = matrix.values.nbytes // 4
    tracemalloc.start()
    try:
        stream = open_stream(matrix, everything, n_bytes=n_bytes)
        for seed in range(3):
            for _, features in stream.batches(everything, 16, rng=np.random.default_rng(seed)):
                assert features.shape[1] == N_FEATURES
        learn_columns(stream, everything)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    positions_bytes = 6 * everything.nbytes
    # What Python itself holds is a tenth of so little.
    assert n_bytes / 2 < peak < 1.1 * n_bytes + positions_bytes


def count_readers():
    return sum("read-ahead" in thread.name for thread in threading.enumerate())


def test_a_failing_read_is_raised_where_the_rows_are_wanted():
    stream = open_stream(BrokenMatrix(VALUES), np.arange(N_ROWS), n_bytes=SMALL)
    with pytest.raises(OSError, match="the disk is gone"):
        take(stream)
    assert count_readers() == 0


def test_the_next_rows_are_read_while_these_are_used():
    matrix = CountedMatrix(VALUES)
    stream = open_stream(matrix, np.arange(N_ROWS), n_bytes=SMALL)
    batches = stream.batches(np.arange(N_ROWS), 64)
    positions, _ = next(batches)
    n_buffer = int(SMALL * 5 / 16) // ROW_BYTES // 64 * 64
    assert len(positions) == 64
    while sum(map(len, matrix.reads)) < 2 * n_buffer:  # or the test runs into its time limit
        threading.Event().wait(0.01)
    batches.close()


def test_an_abandoned_iterator_leaves_no_thread_behind():
    stream = open_stream(ArrayMatrix(VALUES), np.arange(N_ROWS), n_bytes=SMALL)
    batches = stream.batches(np.arange(N_ROWS), 64)
    next(batches)
    assert count_readers() == 1
    del batches
    assert count_readers() == 0


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_columns_are_learnt_from_the_rows_named_alone(n_bytes):
    values = VALUES.copy()
    values[1::2] *= 1e6
    values[:, 3] = 7
    learnt = np.arange(0, N_ROWS, 2)
    stream = open_stream(ArrayMatrix(values), np.arange(N_ROWS), n_bytes=n_bytes)
    plain = StandardScaler().fit(values[learnt].astype(np.float64))
    columns = learn_columns(stream, learnt)
    np.testing.assert_allclose(columns.mean_, plain.mean_, rtol=1e-6)
    np.testing.assert_allclose(columns.scale_, plain.scale_, rtol=1e-6)
    assert columns.scale_[3] == 1


@pytest.mark.parametrize("n_bytes", [SMALL, LARGE])
def test_nan_and_infinity_are_found_in_any_row(n_bytes):
    values = VALUES.copy()
    values[[70, 2000], 3] = np.inf, np.nan
    stream = open_stream(ArrayMatrix(values), np.arange(N_ROWS), n_bytes=n_bytes)
    with pytest.raises(InputError, match=r"2 of 3000 rows .* the first is row 70"):
        learn_columns(stream, np.arange(0, 50))


def test_too_little_memory_says_how_much_would_do():
    assert leave_for_rows(10**8, taken_bytes=10**7, least_bytes=10**7, remedy="") == 9 * 10**7
    with pytest.raises(InputError, match="--memory 151MB, or pool the layer"):
        leave_for_rows(10**8, taken_bytes=10**8, least_bytes=50_000_001, remedy="pool the layer")
