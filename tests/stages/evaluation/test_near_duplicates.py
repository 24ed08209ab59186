from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image
from sklearn.metrics.pairwise import cosine_similarity

from permafrost.stages.evaluation import near_duplicates as neighbours
from permafrost.stages.evaluation.near_duplicates import (
    describe_near_duplicates,
    find_near_duplicates,
)
from permafrost.stages.matrices.matrix import ArrayMatrix

GENEROUS = 2**30


def cut_patches():
    """Return 1,000 patches of a photo, 192 values each, that do not overlap."""
    photo = load_sample_image("china.jpg").astype(np.float32)
    corners = [(y, x) for y in range(0, 420, 16) for x in range(0, 630, 16)]
    order = np.random.default_rng(0).permutation(len(corners))[:1000]
    patches = [photo[y : y + 8, x : x + 8].ravel() for y, x in (corners[i] for i in order)]
    return np.array(patches) + 1


def find_plainly(values, test, train, *, threshold):
    """Find pairs with scikit-learn, all cosines at once."""
    cosines = cosine_similarity(values[test].astype(np.float64), values[train].astype(np.float64))
    best = cosines.max(axis=1)
    close = np.flatnonzero(best > threshold)
    order = close[np.argsort(-best[close], kind="stable")]
    return [(test[row], train[cosines[row].argmax()], best[row]) for row in order]


def assert_found(found, expected):
    assert found.n_found == len(expected)
    assert len(found.pairs) == min(10, len(expected))
    cosines = [cosine for _, _, cosine in found.pairs]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines == pytest.approx([cosine for _, _, cosine in expected[:10]], abs=1e-5)
    # In whatever order float32 has those that are as good as equal.
    known = {(test, train) for test, train, _ in expected}
    assert {(test, train) for test, train, _ in found.pairs} <= known


# Test rows in one block and several; then too wide for that, all cosines at once.
@pytest.mark.parametrize("memory_bytes", [GENEROUS, 2**18, 2**14])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_near_duplicates_are_those_of_plain_cosines(memory_bytes, dtype):
    # Random directions, in which nothing comes near 0.99; some are the same but for noise.
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 1000))
    for n, share in enumerate(np.linspace(0.02, 0.2, 30)):
        values[n] = values[299 - n] * (n + 1) + values[n] * share * (n + 1)
    values = (values / 100).astype(dtype)
    rows = rng.permutation(300)
    test, train = rows[rows < 100], rows[rows >= 100]
    found = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=memory_bytes)
    expected = find_plainly(values, test, train, threshold=0.99)
    assert 10 < len(expected) < 30
    assert found.is_telling
    assert not found.is_centred
    assert found.n_checked == 100
    assert_found(found, expected)


@dataclass(frozen=True)
class CountingMatrix(ArrayMatrix):
    """Counts the values that are read."""

    reads: list[int] = field(default_factory=list)

    def read(self, rows):
        self.reads.append(len(rows) * self.shape[1])
        return super().read(rows)

    def iterate_columns(self, rows, *, n_bytes):
        for block in super().iterate_columns(rows, n_bytes=n_bytes):
            assert block.nbytes <= n_bytes
            self.reads.append(block.size)
            yield block


def test_wide_rows_are_read_once_in_bounded_blocks():
    rng = np.random.default_rng(0)
    matrix = CountingMatrix(rng.normal(size=(120, 20_000)).astype(np.float32))
    memory_bytes = 2**22  # less than half of the rows
    found = find_near_duplicates(
        matrix, np.arange(60), np.arange(60, 120), memory_bytes=memory_bytes
    )
    assert found.n_checked == 60
    assert max(matrix.reads) * 4 <= memory_bytes // 4
    # The first two are the sample of ordinary pairs.
    assert sum(matrix.reads[2:]) == matrix.values.size


@pytest.mark.parametrize("memory_bytes", [GENEROUS, 2**18])
def test_digits_that_are_nearly_the_same_are_found_as_they_are(memory_bytes):
    values = load_digits().data.astype(np.float32)
    test, train = np.arange(0, 1797, 3), np.setdiff1d(np.arange(1797), np.arange(0, 1797, 3))
    found = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=memory_bytes)
    assert not found.is_centred
    expected = find_plainly(values, test, train, threshold=0.99)
    assert expected
    assert_found(found, expected)


@pytest.mark.parametrize(
    ("n_columns", "memory_bytes"), [(64, GENEROUS), (64, 2**16), (3000, 2**19)]
)
def test_rows_that_all_point_to_one_side_are_centred_first(n_columns, memory_bytes):
    # What a random layer and a ReLU make of digits: any two come above 0.99.
    rng = np.random.default_rng(0)
    digits = load_digits().data[:200] / 16
    values = np.maximum(digits @ rng.normal(size=(64, n_columns)) * 0.1 + 3, 0).astype(np.float32)
    values[:7] = values[190:197] * 1.001
    test, train = np.arange(60), np.arange(60, 200)
    assert len(find_plainly(values, test, train, threshold=0.99)) > 50
    found = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=memory_bytes)
    assert found.is_telling
    assert found.is_centred
    centred = values.astype(np.float64) - values[train].mean(axis=0, dtype=np.float64)
    expected = find_plainly(centred, test, train, threshold=0.99)
    assert {(row, row + 190) for row in range(7)} <= {pair[:2] for pair in expected}
    assert_found(found, expected)


def test_where_ordinary_pairs_are_as_close_nothing_is_claimed():
    # Small patches of a photo are much alike: up to a factor, most are one flat colour.
    values = cut_patches()
    test, train = np.arange(300), np.arange(300, 1000)
    assert len(find_plainly(values, test, train, threshold=0.99)) > 100
    centred = values - values[train].mean(axis=0, dtype=np.float64)
    assert len(find_plainly(centred, test, train, threshold=0.99)) > 50
    found = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=GENEROUS)
    assert not found.is_telling
    assert (found.n_checked, found.n_found, found.pairs) == (0, 0, ())
    assert describe_near_duplicates(found, []) is None


@pytest.mark.parametrize("value", [0, 1])
def test_rows_that_are_all_the_same_tell_nothing(value):
    matrix = ArrayMatrix(np.full((50, 8), value, np.float32))
    found = find_near_duplicates(matrix, np.arange(20), np.arange(20, 50), memory_bytes=GENEROUS)
    assert not found.is_telling


def test_a_row_of_zeros_is_like_nothing():
    values = np.random.default_rng(0).normal(size=(50, 100)).astype(np.float32)
    values[[3, 30]] = 0
    values[4] = values[40]
    found = find_near_duplicates(
        ArrayMatrix(values), np.arange(20), np.arange(20, 50), memory_bytes=GENEROUS
    )
    assert [pair[:2] for pair in found.pairs] == [(4, 40)]


def test_too_much_work_is_done_on_evenly_spaced_test_rows(monkeypatch):
    values = np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    values[:100] = values[200:]
    monkeypatch.setattr(neighbours, "MAX_PRODUCTS", 25 * 200 * 100)
    found = find_near_duplicates(
        ArrayMatrix(values), np.arange(100), np.arange(100, 300), memory_bytes=GENEROUS
    )
    assert found.n_checked == found.n_found == 25
    assert {pair.test % 4 for pair in found.pairs} == {0}


def test_the_warning_names_the_nearest_pair():
    values = np.random.default_rng(0).normal(size=(60, 100)).astype(np.float32)
    test, train = np.arange(20), np.arange(20, 60)
    clean = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=GENEROUS)
    assert describe_near_duplicates(clean, []) is None
    values[2] = values[50]
    values[9] = values[51] + 0.05 * values[0]
    found = find_near_duplicates(ArrayMatrix(values), test, train, memory_bytes=GENEROUS)
    warning = describe_near_duplicates(found, [f"{row}.png" for row in range(60)])
    assert warning.startswith("2 of 20 test images are nearly training images (cosine of features")
    assert "'2.png' and '50.png' (1.0000)" in warning
    assert "\n" not in warning
