"""Layer specs as people write them."""

from __future__ import annotations

import pytest

from permafrost.stages.backbones.layers import LayerSpec, parse_layer_spec, parse_layer_specs
from permafrost.stages.errors import StageError, UnknownNameError


def test_an_unknown_pooling_proposes_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown pooling 'agv' in 'conv:agv'.*'avg'"):
        parse_layer_spec("conv:agv")
    with pytest.raises(StageError, match="empty layer name in ':avg'"):
        parse_layer_spec(":avg")


def test_layer_specs_are_read_from_text_or_list_and_count_once():
    expected = [LayerSpec("a"), LayerSpec("b/c", "max")]
    assert parse_layer_specs("a, b/c:max,a:none") == expected
    assert parse_layer_specs(["a", "b/c:max"]) == expected
    assert [str(spec) for spec in expected] == ["a", "b/c:max"]
