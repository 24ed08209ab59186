from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from permafrost.pipeline.experiments.digits import Digits, load_digits, write_digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits(seed=0)


def test_the_split_is_stratified_and_decided_by_the_seed(digits: Digits) -> None:
    shares = [np.mean(digits.splits[digits.labels == label] == "test") for label in range(10)]
    np.testing.assert_allclose(shares, 0.3, atol=0.005)
    assert np.array_equal(load_digits(seed=0).splits, digits.splits)
    assert not np.array_equal(load_digits(seed=1).splits, digits.splits)


def test_png_files_hold_the_pixels_of_scikit_learn(digits: Digits, tmp_path: Path) -> None:
    write_digits(digits.select([7]), tmp_path)
    files = sorted(tmp_path.rglob("*.png"), key=lambda file: file.name)
    written = np.stack([np.asarray(Image.open(file)) for file in files])
    bundled = datasets.load_digits()
    np.testing.assert_allclose(written * (16 / 255), bundled.images[bundled.target == 7], atol=0.04)
    assert {file.parent.name for file in files} == {"7"}


def test_a_file_that_exists_is_left_alone(digits: Digits, tmp_path: Path) -> None:
    few = digits.select([3]).thin_out(1, seed=0)
    kept, gone = (tmp_path / str(path) for path in few.paths[:2])
    write_digits(few, tmp_path)
    kept.write_bytes(b"mine")
    gone.unlink()
    write_digits(few, tmp_path)
    assert kept.read_bytes() == b"mine"
    assert Image.open(gone).size == (8, 8)


def test_thinning_out_keeps_the_test_split_and_as_many_of_each_label(digits: Digits) -> None:
    few = digits.thin_out(4, seed=0)
    assert np.array_equal(few.test.paths, digits.test.paths)
    assert np.bincount(few.train.labels).tolist() == [4] * 10
    assert set(few.train.paths) < set(digits.train.paths)
