"""Layers side by side, each with rows of length 1, against scikit-learn on all of their columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from permafrost.stages.matrices.joined import JoinedMatrix
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.reduction import ScaledRows, scale_rows
from permafrost.stages.matrices.scaling import scale_layers
from tests.stages.matrices.test_reduction import CountedMatrix, DictStore

N_ROWS = 120
WIDTHS = (1500, 700, 640, 300, 200, 130, 77, 1)
EDGES = (0, *np.cumsum(WIDTHS).tolist())
ROOM = {"memory_bytes": 10**9, "fit_bytes": 24}


def draw_layers() -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Make eight layers of digits, of far different lengths, with rows of zeros in the last."""
    pixels, digits = load_digits(n_class=3, return_X_y=True)
    rng = np.random.default_rng(0)
    layers = [
        np.maximum((pixels[:N_ROWS] - 5) @ rng.standard_normal((64, width)) * 10.0**scale, 0)
        for scale, width in enumerate(WIDTHS, start=-4)
    ]
    return [layer.astype(np.float32) for layer in layers], digits[:N_ROWS]


LAYERS, DIGITS = draw_layers()
WHOLE = np.hstack([normalize(layer.astype(np.float64)) for layer in LAYERS])
ROWS = np.arange(N_ROWS)
TRAINS = [ROWS[:80], ROWS[40:]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.fixture
def reduce_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows be reduced that scikit-learn can fit directly in no time, to be compared."""
    monkeypatch.setattr("permafrost.stages.matrices.budget.SMALL", 0)


def scale_by_layer(matrix: JoinedMatrix | ArrayMatrix, **options: object) -> list[ScaledRows]:
    return list(scale_rows(matrix, ROWS, scale="layer", trains=TRAINS, **ROOM, **options))


def test_some_rows_are_zeros_in_one_layer() -> None:
    assert 0 < (LAYERS[-1] == 0).all(axis=1).sum() < N_ROWS


def test_a_fit_on_summed_inner_products_is_that_on_all_columns(reduce_all: None) -> None:
    matrix = JoinedMatrix([ArrayMatrix(layer) for layer in LAYERS])
    for scaled, train in zip(scale_by_layer(matrix), TRAINS, strict=True):
        assert scaled.is_reduced and scaled.values.shape[1] <= N_ROWS
        model = LogisticRegression(C=10, tol=1e-9, max_iter=100_000)
        plain = model.fit(WHOLE[train], DIGITS[train])
        wanted, said = plain.coef_.copy(), plain.predict_proba(WHOLE)
        fitted = model.fit(scaled.values[train], DIGITS[train])
        np.testing.assert_allclose(fitted.predict_proba(scaled.values), said, atol=1e-6)
        np.testing.assert_allclose(scaled.restore(fitted.coef_), wanted, atol=1e-6)


@pytest.mark.parametrize("is_joined", [True, False])
def test_dense_rows_are_scaled_layer_by_layer(is_joined: bool) -> None:
    joined = JoinedMatrix([ArrayMatrix(layer) for layer in LAYERS])
    held = ArrayMatrix(np.hstack(LAYERS), layers=WIDTHS)
    for scaled in scale_by_layer(joined if is_joined else held):
        assert not scaled.is_reduced and scaled.widths == WIDTHS
        np.testing.assert_allclose(scaled.values, WHOLE, atol=1e-6)


def test_of_a_single_layer_it_is_l2(reduce_all: None) -> None:
    matrix = ArrayMatrix(LAYERS[0])
    by_layer = scale_by_layer(matrix)[0].values
    (l2,) = scale_rows(matrix, ROWS, scale="l2", trains=[ROWS], **ROOM)
    np.testing.assert_allclose(by_layer @ by_layer.T, l2.values @ l2.values.T, atol=1e-12)


def test_inner_products_of_a_layer_are_made_once_for_all_that_it_is_joined_with(
    reduce_all: None,
) -> None:
    layers = [CountedMatrix(ArrayMatrix(layer)) for layer in LAYERS[:4]]
    stores = [DictStore() for _ in layers]
    for chosen in ([0, 1, 2], [2, 0, 3], [0]):
        joined = JoinedMatrix([layers[n] for n in chosen], [stores[n] for n in chosen])
        found = scale_by_layer(joined, store=stores[chosen[0]])
        wanted = np.hstack([normalize(LAYERS[n].astype(np.float64)) for n in chosen])
        np.testing.assert_allclose(found[0].values @ found[0].values.T, wanted @ wanted.T)
    # Unscaled rows, and all of them to length 1, have the same inner products.
    plain = JoinedMatrix(layers, stores)
    (found_plain,) = scale_rows(plain, ROWS, scale="none", trains=[ROWS], store=stores[0], **ROOM)
    full = np.hstack(LAYERS[:4]).astype(np.float64)
    np.testing.assert_allclose(found_plain.values @ found_plain.values.T, full @ full.T)
    assert [layer.n_passes for layer in layers] == [1, 1, 1, 1]


def test_what_was_kept_of_layers_is_not_taken_for_other_widths(reduce_all: None) -> None:
    values, store = np.hstack(LAYERS[:2]), DictStore()
    one = scale_by_layer(ArrayMatrix(values), store=store)
    parts = [ArrayMatrix(part) for part in np.split(values, [900], axis=1)]
    two = scale_by_layer(JoinedMatrix(parts), store=store)
    again = scale_by_layer(JoinedMatrix(parts), store=store)
    assert not np.allclose(one[0].values[0] @ one[0].values[0], two[0].values[0] @ two[0].values[0])
    np.testing.assert_array_equal(two[0].values, again[0].values)
    weights = np.random.default_rng(0).standard_normal((2, two[0].values.shape[1]))
    np.testing.assert_allclose(two[0].restore(weights), again[0].restore(weights))


def test_scaling_rows_leaves_the_callers_own_alone() -> None:
    values = np.hstack(LAYERS)
    before = values.copy()
    scaled = scale_layers(values, WIDTHS)
    np.testing.assert_array_equal(values, before)
    for start, stop in pairwise(EDGES):
        lengths = np.linalg.norm(scaled[:, start:stop], axis=1)
        np.testing.assert_allclose(lengths[lengths > 0], 1, atol=1e-6)
