"""``verify``: all damage is named, and nothing else is called damage."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import h5py

from tests.helpers.answers import Command
from tests.helpers.folders import find_shards, list_content


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
        "quarantined": 0,
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
    expected = {
        shards[0]: "2 of its 2 rows are damaged: ",
        shards[1]: "Unable to ",
        alien: "it holds rows of another feature set (",
        others[0].parent / "recipe.json": "it is no recipe (",
        shards[0].parent / "parity.json": "it is no record of that kind",
    }
    answer = command("verify", "--cache", cache)
    assert answer.status == 3
    *lines, last, remark = answer.out.splitlines()
    assert len(lines) == len(expected)
    assert remark == f"  {cache}/index.sqlite is behind the shards (entries: 3); harmless"
    for path, reason in expected.items():
        assert any(line.startswith(f"{path}: {reason}") for line in lines), (path, lines)
    assert last.endswith(f": 5 damaged files; mend with: python run.py repair --cache {cache}")
    assert "Traceback" not in answer.err


def test_what_is_not_tidy_is_said_and_no_damage(cache: Path, command: Command) -> None:
    shards = find_shards(cache)
    with sqlite3.connect(cache / "index.sqlite") as index:
        index.execute("UPDATE shards SET stamp = '1:1' WHERE name = ?", [shards[0].name])
    index.close()
    host = os.uname().nodename
    (shards[0].parent / f".tmp-{host}-999999999-1-0.h5").write_bytes(b"half")
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


def test_what_can_be_derived_again_is_said_and_no_damage(cache: Path, command: Command) -> None:
    """As reduced rows of a fit, and the model that OpenVINO converted."""
    derived = find_shards(cache)[0].with_name("derived-ab.h5")
    derived.write_bytes(b"no HDF5")
    answer = command("verify", "--cache", cache)
    assert answer.status == 0, answer.out
    verdict, remark = answer.out.splitlines()
    assert verdict.endswith(": no damage")
    assert remark.startswith(f"  {derived} is damaged (Unable to ")
    assert remark.endswith("); delete it: it is made again when it is needed")
    figures = command("verify", "--cache", cache, "--json").figures
    assert (figures["damaged"], figures["remarks"]) == ([], [remark.strip()])


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


def test_a_damaged_format_is_named(cache: Path, command: Command) -> None:
    (cache / "format.json").write_text("{")
    answer = command("verify", "--cache", cache)
    assert (answer.status, answer.err.count("\n")) == (3, 1)
    assert f"{str(cache / 'format.json')!r} is damaged" in answer.err
