"""Groups that do badly and orders that leak, against SciPy's tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact
from sklearn.datasets import load_digits

from permafrost.stages.audit.patterns import (
    compare_groups,
    correlate_labels,
    correlate_values,
    judge_order,
    list_groups,
    order_by_number,
)

DIGITS = load_digits().target


def test_a_group_that_does_badly_is_told_and_no_other():
    rng = np.random.default_rng(0)
    sites = rng.choice(["north", "south", "east"], 600)
    is_right = rng.random(600) < np.where(sites == "south", 0.7, 0.95)
    column = list_groups(sites.tolist())
    found = compare_groups(
        is_right, {"site": column, "digit": list_groups(list(map(str, DIGITS[:600])))}
    )
    assert [(one.column, one.value) for one in found if one.is_bad] == [("site", "south")]
    south = sites == "south"
    table = [
        [(is_right & south).sum(), (~is_right & south).sum()],
        [(is_right & ~south).sum(), (~is_right & ~south).sum()],
    ]
    assert found[0].p_value == pytest.approx(fisher_exact(table, "less").pvalue)
    assert found[0].accuracy == is_right[south].mean()
    assert found[0].rest == is_right[~south].mean()
    share, n, z = is_right[south].mean(), south.sum(), 1.959964
    reach = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    wilson = [(share + z * z / (2 * n) + side * reach) / (1 + z * z / n) for side in (-1, 1)]
    assert found[0].interval == pytest.approx(wilson, abs=1e-6)


def test_columns_of_many_values_are_no_groups_and_rare_values_are_left_out():
    assert list_groups([str(n) for n in range(200)]) == {}
    assert list_groups(["a"] * 20) == {}
    assert list(list_groups(["a"] * 20 + ["b"] * 10 + ["c"] * 9 + [""] * 30)) == ["a", "b"]


def test_labels_correlate_as_columns_of_zeros_and_ones():
    codes = DIGITS[:400]
    columns = np.eye(10)[codes] - np.eye(10)[codes].mean(axis=0)
    plain = (columns[:-1] * columns[1:]).sum() / (columns**2).sum()
    assert correlate_labels(codes) == pytest.approx(plain, abs=0.01)
    assert correlate_labels(np.sort(codes)) > 0.9
    assert correlate_labels(np.zeros(50, np.int64)) is None
    assert correlate_values(np.zeros(50)) is None


def test_an_order_that_tells_the_label_is_evident_and_chance_is_not():
    rng = np.random.default_rng(0)
    for _ in range(20):
        codes = rng.permutation(DIGITS)
        leak = judge_order(correlate_labels(codes), n=len(codes), order="rows", tells="label")
        assert not leak.is_evident
    blocks = np.repeat(rng.permutation(DIGITS[:200]), 4)
    leak = judge_order(correlate_labels(blocks), n=len(blocks), order="rows", tells="label")
    assert leak.is_evident


def test_rows_are_ordered_by_the_last_number_of_their_file_name():
    order = order_by_number(["b/7/cat.10.jpg", "a/1/dog2.png", "c/x-0003"])
    assert order is not None
    assert order.tolist() == [1, 2, 0]
    assert order_by_number(["a1.png", "b.png"]) is None
