"""``export --features``: a layer opened by pandas, pyarrow and NumPy, as it is in the file."""

from __future__ import annotations

import csv
import hashlib
import importlib.util

import numpy as np
import pandas as pd
import pytest

from permafrost.pipeline.tasks import layer_file
from tests.helpers.views import write_features

N = 50
RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(N, 4, 4, 3)).astype(np.float32)
ROWS = RNG.normal(size=(N, 7)).astype(np.float16)
IMAGES = RNG.integers(0, 256, (N, 2, 2, 3)).astype(np.uint8)
LABELS = ["cat" if n % 3 else "" for n in range(N)]
SPLITS = ["test" if n % 4 == 0 else "train" for n in range(N)]
NOTES = [f"=1+{n}" for n in range(N)]


@pytest.fixture(scope="session")
def view(tmp_path_factory):
    return write_features(
        tmp_path_factory.mktemp("layers") / "features.h5",
        {"map": MAPS, "row:avg": ROWS, "pixels": IMAGES},
        labels=LABELS,
        splits=SPLITS,
        columns={"note": NOTES, "features": NOTES},
    )


@pytest.fixture
def export(command, view, tmp_path):
    def call(layer, name):
        answer = command(
            *("export", "--features", view, "--layer", layer, "--out", tmp_path / name, "--json")
        )
        return answer.figures, tmp_path / name

    return call


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(layer_file, "BLOCK_BYTES", 200)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("map", MAPS), ("row:avg", ROWS), ("pixels", IMAGES)],
)
def test_an_npy_is_the_layer_as_it_is_stored(export, small_blocks, layer, expected):
    figures, out = export(layer, "layer.npy")
    found = np.load(out, mmap_mode="r")
    assert isinstance(found, np.memmap)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert figures["shape"] == list(expected.shape[1:])
    with out.with_name("layer.npy.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["path", "label", "split", "features", "note"]
    assert [row[0] for row in rows] == [f"{n:04d}.png" for n in range(N)]
    assert [row[1] for row in rows] == LABELS
    assert not any(row[4].startswith("=") for row in rows)


def test_a_pooling_and_joined_layers_are_one_row_an_image(export):
    _, out = export("map:avg", "layer.npy")
    np.testing.assert_allclose(np.load(out), MAPS.mean(axis=(1, 2)), atol=1e-6)
    _, out = export("map:avg+row:avg", "joined.npy")
    expected = np.hstack([MAPS.mean(axis=(1, 2)), ROWS])
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "expected", "dtype"),
    [("map", MAPS, np.float32), ("row:avg", ROWS, np.float32), ("pixels", IMAGES, np.uint8)],
)
def test_a_parquet_file_is_read_by_pandas_and_pyarrow(export, small_blocks, layer, expected, dtype):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, out = export(layer, "layer.parquet")
    table = pd.read_parquet(out)
    assert list(table) == ["path", "label", "split", "features", "note", "_features"]
    values = np.stack(table["_features"])
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, expected.reshape(N, -1).astype(dtype))
    assert table["label"].fillna("").tolist() == LABELS
    assert table["note"].tolist() == NOTES
    assert table["split"].tolist() == SPLITS
    opened = parquet.ParquetFile(out)
    assert opened.metadata.num_rows == N
    # What is in memory at a time is one of them.
    assert opened.metadata.num_row_groups > 1


def test_the_same_layer_is_the_same_bytes(export):
    pytest.importorskip("pyarrow")
    digests = {
        hashlib.sha256(export("map", name)[1].read_bytes()).hexdigest()
        for name in ("one.parquet", "two.parquet")
    }
    assert len(digests) == 1


def test_what_makes_no_sense_is_one_line(refused, view, tmp_path, monkeypatch):
    known = ("export", "--features", view)
    assert ".npy" in refused(*known, "--layer", "map", "--out", tmp_path / "layer.csv")
    assert "--layer" in refused(*known, "--out", tmp_path / "layer.npy")
    assert "mapp" in refused(*known, "--layer", "mapp", "--out", tmp_path / "layer.npy")
    assert "not allowed with" in refused(*known, "--model", tmp_path, "--out", tmp_path / "a.npy")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    line = refused(*known, "--layer", "map", "--out", tmp_path / "layer.parquet")
    assert "permafrost[parquet]" in line
