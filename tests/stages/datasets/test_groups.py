from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from permafrost.stages.datasets.groups import find_group_column, join_groups
from permafrost.stages.errors import UnknownNameError


def test_rows_are_joined_through_digests_and_columns_in_turn() -> None:
    digests = [b"a", b"b", b"a", b"c", b"d", b"d"]
    assert join_groups(digests).tolist() == [0, 1, 0, 2, 3, 3]
    column = ["", "x", " x", "y", "y ", "z"]
    assert join_groups(digests, column).tolist() == [0, 0, 0, 1, 1, 1]


def test_what_is_unknown_joins_nothing() -> None:
    assert join_groups([b""] * 3, ["", " ", ""]).tolist() == [0, 1, 2]
    assert join_groups([]).shape == (0,)


def test_groups_are_the_connected_components_of_a_graph() -> None:
    draw = random.Random(0)
    digests = [bytes([draw.randrange(256), draw.randrange(4)]) for _ in range(2000)]
    column = [draw.choice(["", f"patient {draw.randrange(900)}"]) for _ in range(2000)]
    nodes = {key: 2000 + node for node, key in enumerate({*digests, *column} - {""})}
    edges = [(row, nodes[key]) for keys in (digests, column) for row, key in enumerate(keys) if key]
    rows, columns = zip(*edges, strict=True)
    size = 2000 + len(nodes)
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    truth = connected_components(graph, directed=False)[1][:2000]
    found = join_groups(digests, column)
    assert len(set(found.tolist())) == len(set(truth.tolist()))
    assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist()))
    first = np.unique(found, return_index=True)[1]
    assert (np.diff(first) > 0).all()


def test_an_array_of_digests_is_as_good_as_their_bytes() -> None:
    rows = (
        np.random.default_rng(0)
        .integers(0, 2, (40, 32))
        .astype(np.uint8)[np.random.default_rng(1).integers(0, 40, 100)]
    )
    found = join_groups(rows)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, join_groups([row.tobytes() for row in rows]))


@pytest.mark.parametrize("name", ["group", "Group", " GROUP"])
def test_the_group_column_is_found_in_any_case(name: str) -> None:
    assert find_group_column({"groups": ["no"], name: ["yes"]}) == ["yes"]
    assert find_group_column({"groups": ["no"]}) is None


def test_a_column_that_was_named_has_to_be_there() -> None:
    with pytest.raises(UnknownNameError, match=r"'x' for --group; there is none"):
        find_group_column({}, "x")
    with pytest.raises(UnknownNameError, match="did you mean 'patient'"):
        find_group_column({"patient": ["1"]}, "patients")
