"""Memory decides how rows are read, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads import fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.stream import open_stream

VALUES = np.add.outer(np.arange(3000), np.arange(500)).astype(np.float32)
ALL = np.arange(len(VALUES))


@pytest.mark.parametrize("mix_bytes", [2**28, VALUES.nbytes // 4])
@pytest.mark.parametrize("seed", [None, 0])
def test_the_same_rows_come_in_the_same_batches_whatever_the_memory(
    mix_bytes: int, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.stages.matrices.stream.MIX_BYTES", mix_bytes)
    orders = []
    for n_bytes in (2 * VALUES.nbytes, VALUES.nbytes // 2, VALUES.nbytes // 10):
        stream = open_stream(ArrayMatrix(VALUES), ALL, n_bytes=n_bytes)
        rng = None if seed is None else np.random.default_rng(seed)
        batches = list(stream.batches(ALL, 64, rng=rng))
        assert {len(positions) for positions, _ in batches[:-1]} == {64}
        for positions, features in batches:
            np.testing.assert_array_equal(features[:, 0], positions)
        orders.append(np.concatenate([positions for positions, _ in batches]))
    np.testing.assert_array_equal(np.sort(orders[0]), ALL)
    for one, other in pairwise(orders):
        np.testing.assert_array_equal(one, other)


def test_a_mix_holds_rows_of_all_classes_of_a_sorted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permafrost.stages.matrices.stream.MIX_BYTES", VALUES.nbytes // 4)
    stream = open_stream(ArrayMatrix(VALUES), ALL, n_bytes=2 * VALUES.nbytes)
    batches = list(stream.batches(ALL, 64, rng=np.random.default_rng(0)))
    assert all(0.1 < np.mean(positions < 1500) < 0.9 for positions, _ in batches[:-1])


@pytest.mark.parametrize("kind", ["mlp", "sgd"])
def test_a_trained_head_is_the_same_whatever_the_memory(kind: str) -> None:
    digits = load_digits()
    x = np.tile(digits.data.astype(np.float32), (1, 8))
    names = np.array([f"digit {digit}" for digit in digits.target])
    targets = Targets(task="classification", values=names, classes=np.unique(names))
    chosen = {"hidden": 16, "epochs": 4} if kind == "mlp" else {"epochs": 20}
    settings = parse_settings(kind, chosen)
    heads = [
        fit_head(
            kind,
            settings,
            ArrayMatrix(x),
            targets,
            train=np.arange(1500),
            seed=0,
            memory_bytes=memory_bytes,
        )
        for memory_bytes in (3_000_000, 10**9)
    ]
    np.testing.assert_array_equal(heads[0].predict(x), heads[1].predict(x))
