"""The rules of the four scenarios."""

from __future__ import annotations

import pytest

from permafrost.stages.advice.scenario import judge_domain, judge_size


@pytest.mark.parametrize(
    ("n_layers", "peak", "interval", "verdict"),
    [
        (5, 3, (0.01, 0.1), "different"),
        (5, 0, (0.001, 0.3), "different"),
        (5, 4, (0.0, 0.0), "similar"),
        (5, 3, (-0.01, 0.05), "similar"),
        (5, 3, (0.0, 0.04), "similar"),
        (5, 3, (-0.01, 0.06), "undecided"),
        (1, 0, (0.0, 0.0), "undecided"),
        (5, 2, None, "undecided"),
    ],
)
def test_a_domain_is_another_one_where_the_drop_to_the_last_layer_is_no_chance(
    n_layers, peak, interval, verdict
):
    assert judge_domain(n_layers, peak, interval) == verdict


@pytest.mark.parametrize(
    ("per_class", "per_1000_weights", "verdict"),
    [
        (1000, 1.0, "large"),
        (999, 5.0, "small"),
        (5000, 0.9, "small"),
        (1000, None, "large"),
        (10, None, "small"),
    ],
)
def test_rows_are_many_by_class_and_by_weight(per_class, per_1000_weights, verdict):
    assert judge_size(per_class, per_1000_weights) == verdict
