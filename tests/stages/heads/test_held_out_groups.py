"""Early stopping watches whole groups, which have nothing in what is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads import fit_head, parse_settings
from permafrost.stages.heads.networks.held_out import choose_held_out
from permafrost.stages.matrices.matrix import ArrayMatrix


def find_shares(groups: NDArray[np.int64], held_out: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each group's rows that is held out."""
    return np.bincount(groups[held_out], minlength=groups.max() + 1) / np.bincount(groups)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_held_out_whole_and_are_a_tenth_of_every_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, 900)
    groups = rng.permutation(np.repeat(np.arange(900), sizes))
    codes = np.repeat([0, 1, 2], 300)[groups]
    held_out = choose_held_out(codes, groups, seed=seed)
    assert set(find_shares(groups, held_out)) == {0.0, 1.0}
    shares = np.bincount(codes[held_out]) / np.bincount(codes)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_of_a_few_large_groups_one_is_held_out_and_of_three_none() -> None:
    for n_groups, n_held in ((5, 1), (4, 1), (3, 0)):
        groups = np.repeat(np.arange(n_groups), 50)
        codes = np.tile([0, 1], len(groups) // 2)
        shares = find_shares(groups, choose_held_out(codes, groups, seed=0))
        assert sorted(shares) == [0.0] * (n_groups - n_held) + [1.0] * n_held


def test_a_class_of_one_group_stays_with_what_is_learnt_from() -> None:
    groups = np.arange(200) // 5
    for lone in range(40):
        codes = (groups == lone).astype(int)
        assert not set(groups[choose_held_out(codes, groups, seed=0)]) & {lone}


def make_copies() -> tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.int64]]:
    """Ten copies of each of 240 things, half of them with a label that is not to be learnt."""
    rng = np.random.default_rng(0)
    things = rng.normal(size=(240, 30))
    labels = np.where(things[:, 0] > 0, "a", "b")
    labels[::3] = rng.permutation(labels[::3])
    groups = np.repeat(np.arange(240), 10)
    x = things[groups] + 0.02 * rng.normal(size=(2400, 30))
    return x.astype(np.float32), labels[groups], groups


def test_copies_of_what_is_learnt_do_not_say_when_to_stop() -> None:
    x, labels, groups = make_copies()
    targets = Targets(task="classification", values=labels, classes=np.unique(labels))
    train, test = np.flatnonzero(groups < 120), np.flatnonzero(groups >= 120)
    settings = parse_settings("mlp", {"hidden": 64, "dropout": 0, "epochs": 60})
    losses = []
    for known in (groups, None):
        head = fit_head("mlp", settings, ArrayMatrix(x), targets, train=train, groups=known, seed=0)
        losses.append(log_loss(labels[test], head.predict(x[test])))
    assert losses[0] < 0.75 * losses[1]
