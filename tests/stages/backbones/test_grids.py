"""Grid pooling against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.stages.backbones.layers import LayerSpec, parse_layer_spec
from permafrost.stages.backbones.pooling import cut_cells
from permafrost.stages.errors import InputError, UnknownNameError
from tests.helpers.grids import average_cells

MAPS = np.random.default_rng(0).standard_normal((3, 7, 5, 4))


@pytest.mark.parametrize("n_cells", [1, 2, 3, 5, 7, 9])
def test_cells_are_averaged_whether_or_not_they_divide_the_map(n_cells):
    spec = parse_layer_spec(f"conv:grid{n_cells}")
    pooled = spec.pool(np, MAPS, channel_axis=-1)
    np.testing.assert_allclose(pooled, average_cells(MAPS, n_cells))
    assert pooled.shape[1:] == spec.pool_shape(MAPS.shape[1:], channel_axis=-1)


def test_channels_that_come_first_end_up_last():
    first = np.moveaxis(MAPS, -1, 1)
    spec = LayerSpec("conv", "grid3")
    pooled = spec.pool(np, first, channel_axis=1)
    np.testing.assert_allclose(pooled, average_cells(MAPS, 3))
    assert pooled.shape[1:] == spec.pool_shape(first.shape[1:], channel_axis=1)


def test_neighbours_share_a_position_where_the_map_is_not_divided():
    assert cut_cells(7, 3) == [slice(0, 3), slice(2, 5), slice(4, 7)]
    assert cut_cells(6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert cut_cells(1, 2) == [slice(0, 1), slice(0, 1)]


def test_one_cell_is_the_average():
    one, average = (
        LayerSpec("c", name).pool(np, MAPS, channel_axis=-1) for name in ("grid1", "avg")
    )
    np.testing.assert_allclose(one, average)


def test_tokens_are_cut_along_their_only_axis():
    tokens = MAPS[:, :, 0]
    pooled = LayerSpec("block", "grid2").pool(np, tokens, channel_axis=-1)
    halves = [tokens[:, :4].mean(1), tokens[:, 3:].mean(1)]
    np.testing.assert_allclose(pooled, np.hstack(halves))


@pytest.mark.parametrize(
    "text", ["conv:grid", "conv:grid0", "conv:grid02", "conv:grid-1", "c:gridN"]
)
def test_what_is_no_grid_proposes_one(text):
    with pytest.raises(UnknownNameError, match=r"unknown pooling .*'grid2'"):
        parse_layer_spec(text)


def test_a_vector_has_no_cells():
    with pytest.raises(InputError, match="'fc' has no height and width to pool"):
        LayerSpec("fc", "grid2").pool_shape((10,), channel_axis=-1)
