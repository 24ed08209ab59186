"""``verify``, ``gc`` and ``compact`` on caches that real extractions filled."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.conftest import Command

N_PHOTOS = 12


@pytest.fixture
def cache(extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two feature sets of several small shards."""
    monkeypatch.setattr("pipeline.writing.SHARD_BYTES", 1000)
    assert extract("--batch-size", 2).status == 0
    return tmp_path / "cache"


def list_content(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file, by its path."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def find_shards(cache: Path, layer: str = "last-avg") -> list[Path]:
    return sorted(cache.glob(f"*/{layer}/shard-*.h5"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_sound_cache_is_one_line_and_unchanged(cache: Path, command: Command) -> None:
    before = list_content(cache)
    n_bytes = sum(path.stat().st_size for path in cache.glob("*/*/shard-*.h5"))
    answer = command("verify", "--cache", cache)
    assert answer.status == 0, answer.err
    assert answer.out == f"2 feature sets, 12 shards, 24 rows, {n_bytes / 1e3:.1f} kB: no damage\n"
    assert list_content(cache) == before
    assert command("verify", "--cache", cache, "--json").figures == {
        "feature_sets": 2,
        "shards": 12,
        "rows": 24,
        "bytes": n_bytes,
        "damaged": [],
        "duplicates": 0,
        "temporary": 0,
        "remarks": [],
    }


def test_all_damage_is_named_at_once(cache: Path, command: Command) -> None:
    shards, others = find_shards(cache), find_shards(cache, "first-none")
    with h5py.File(shards[0]) as file:
        flip(shards[0], file["features"].id.get_chunk_info(0).byte_offset + 3)
    shards[1].write_bytes(shards[1].read_bytes()[:-20])
    alien = shards[2]  # the same rows have the same name in every feature set
    alien.write_bytes((others[0].parent / alien.name).read_bytes())
    (others[0].parent / "recipe.json").write_text("{")
    (shards[0].parent / "parity.json").write_text("[]")
    (shards[0].parent / "derived-ab.h5").write_bytes(b"no HDF5")
    expected = {
        shards[0]: "2 of its 2 rows are damaged: ",
        shards[1]: "Unable to ",
        alien: "it holds rows of another feature set (",
        others[0].parent / "recipe.json": "it is no recipe (",
        shards[0].parent / "parity.json": "it is no record of that kind",
        shards[0].parent / "derived-ab.h5": "Unable to ",
    }
    answer = command("verify", "--cache", cache)
    assert answer.status == 3
    *lines, last, remark = answer.out.splitlines()
    assert len(lines) == len(expected)
    assert remark == f"  {cache}/index.sqlite is behind the shards (entries: 3); harmless"
    for path, reason in expected.items():
        assert any(line.startswith(f"{path}: {reason}") for line in lines), (path, lines)
    assert last.endswith(f": 6 damaged files; mend with: python run.py repair --cache {cache}")
    assert "Traceback" not in answer.err


def test_what_is_not_tidy_is_said_and_no_damage(cache: Path, command: Command) -> None:
    shards = find_shards(cache)
    with sqlite3.connect(cache / "index.sqlite") as index:
        index.execute("UPDATE shards SET stamp = '1:1' WHERE name = ?", [shards[0].name])
    index.close()
    host = os.uname().nodename
    (shards[0].parent / f".tmp-{host}-999999999-0.h5").write_bytes(b"half")
    answer = command("verify", "--cache", cache)
    assert answer.status == 0, answer.out
    assert answer.out.splitlines()[1:] == [
        "  1 file of killed runs; gc drops them",
        f"  {cache}/index.sqlite is behind the shards (entries: 2); harmless",
    ]
    (cache / "index.sqlite").write_bytes(b"garbage" * 1000)
    answer = command("verify", "--cache", cache)
    assert answer.status == 0
    assert "index.sqlite is no index" in answer.out


def test_an_index_that_is_wrong_about_rows_is_damage(cache: Path, command: Command) -> None:
    one, other = find_shards(cache)[:2]
    with sqlite3.connect(cache / "index.sqlite") as index:
        query = "SELECT digests FROM shards WHERE name = ?"
        (digests,) = index.execute(query, [other.name]).fetchone()
        index.execute("UPDATE shards SET digests = ? WHERE name = ?", [digests, one.name])
    index.close()
    answer = command("verify", "--cache", cache, "--json")
    assert answer.status == 3
    assert f"says that {one.name} holds other rows" in answer.out


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda folder: None, 2, "there is no cache at"),
        (lambda folder: folder.mkdir(), 2, "there is no cache at"),
        (lambda folder: folder.write_text("x"), 2, "there is no cache at"),
    ],
)
def test_where_there_is_no_cache_none_is_made(
    tmp_path: Path, command: Command, make: Callable[[Path], Any], status: int, words: str
) -> None:
    folder = tmp_path / "nothing"
    make(folder)
    before = list(tmp_path.rglob("*"))
    answer = command("verify", "--cache", folder)
    assert (answer.status, answer.err.count("\n")) == (status, 1)
    assert words in answer.err
    assert list(tmp_path.rglob("*")) == before
