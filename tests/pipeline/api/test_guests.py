"""Features in other people's programs: in their processes, and in their tables."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.api.reader import FeatureReader, open_features
from tests.helpers.views import LAYER, write_features

VALUES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_features(
        tmp_path / "features.h5",
        {LAYER: VALUES},
        labels=["cat", "dog"] * 3,
        splits=["train"] * 4 + ["test"] * 2,
        columns={"patient": list("aabbcc"), "age": list("123456")},
    )


def read_row(features: FeatureReader, row: int) -> np.ndarray:
    """Read a row, as the dataset of a DataLoader does in a process of its own."""
    found: np.ndarray = features.to_numpy(LAYER)[row]
    return found


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_open_features_are_sent_to_other_processes(file: Path, start: str) -> None:
    with (
        open_features(file) as features,
        multiprocessing.get_context(start).Pool(2) as pool,
    ):
        rows = pool.starmap(read_row, [(features, row) for row in range(len(features))])
    np.testing.assert_array_equal(np.stack(rows), VALUES)


def test_a_table_has_the_columns_of_the_dataset(file: Path) -> None:
    pytest.importorskip("pandas")
    with open_features(file) as features:
        table = features.to_dataframe(LAYER, split="test")
    texts = ["path", "label", "split", "age", "patient"]
    assert table.columns.tolist() == [*texts, *(f"{LAYER}_{number}" for number in range(4))]
    assert table["patient"].tolist() == ["c", "c"]
    assert table["age"].tolist() == ["5", "6"]
    np.testing.assert_array_equal(table.iloc[:, 5:].to_numpy(), VALUES[4:])
