"""A dataset computed in parts, each by a run that knows nothing of the others."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.parsers import Part
from tests.helpers.answers import Command
from tests.helpers.extracted import break_image, find_shards, read_plain
from tests.helpers.inputs import LAYERS


@pytest.mark.parametrize(("n_rows", "n_parts"), [(0, 3), (2, 3), (12, 5), (1000, 7), (5, 1)])
def test_parts_are_neighbours_and_all_of_it(n_rows: int, n_parts: int) -> None:
    parts = [Part(number + 1, n_parts).slice_rows(n_rows) for number in range(n_parts)]
    assert [row for part in parts for row in part] == list(range(n_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "1/-3", "1/3/5", ""])
def test_a_part_that_is_none_is_one_line(extract: Command, text: str) -> None:
    answer = extract("--part", text)
    assert (answer.status, "Traceback" in answer.err) == (2, False)
    assert f"--part {text!r}: write it as 3/8" in answer.err


def test_parts_fill_the_cache_and_a_run_without_parts_writes_the_view(
    extract: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    break_image(photos / "china/0003.jpg")
    extract("--out", tmp_path / "whole.h5", "--cache", tmp_path / "other")
    figures = [
        extract("--part", f"{number}/3", "--split", "test=0.5").figures for number in (3, 1, 2)
    ]
    assert [(one["images"], one["computed"], one["failed"]) for one in figures] == [
        *((4, 4, 0), (4, 3, 1), (4, 4, 0))
    ]
    assert {one["features"] for one in figures} == {None}
    assert not out.exists()
    assert len(find_shards(tmp_path / "cache", "last-avg")) == 3
    again = extract("--part", "2/3").figures
    assert (again["computed"], again["reused"]) == (0, 4)
    last = extract().figures
    assert (last["images"], last["computed"], last["reused"], last["failed"]) == (12, 0, 11, 1)
    for layer in LAYERS.split(","):
        expected = read_plain(tmp_path / "whole.h5", layer)
        np.testing.assert_allclose(read_plain(out, layer), expected, rtol=1e-5, atol=1e-6)


def test_a_part_hashes_its_own_images_alone(
    extract: Command, photos: Path, tmp_path: Path, settled: None
) -> None:
    assert extract("--part", "2/2").figures["computed"] == 6
    index = sqlite3.connect(tmp_path / "cache/index.sqlite")
    hashed = {Path(key) for (key,) in index.execute("SELECT key FROM files") if "photos" in key}
    index.close()
    assert hashed == set(sorted(photos.rglob("*.jpg"))[6:])
