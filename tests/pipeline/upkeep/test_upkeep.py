"""``verify``, ``gc`` and ``compact`` on caches that real extractions filled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from permafrost.cache.disk.publish import temporary_path
from permafrost.cache.store.leases import Leases
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.views.features import Features
from permafrost.stages.datasets.manifest import read_manifest
from tests.helpers.answers import Command
from tests.helpers.shards import expect_set, read_set, write_set


@pytest.fixture
def cache(extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two feature sets of several small shards."""
    monkeypatch.setattr("permafrost.cache.shards.format.SHARD_BYTES", 1000)
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


def read_digests(shard: Path) -> set[bytes]:
    with h5py.File(shard) as file:
        return {digest.tobytes() for digest in file["digest"][()]}


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


@pytest.mark.parametrize("name", ["verify", "gc", "compact"])
@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, Path.touch])
def test_where_there_is_no_cache_none_is_made(
    tmp_path: Path, command: Command, name: str, make: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "nothing"
    make(folder)
    before = list(tmp_path.rglob("*"))
    answer = command(name, "--cache", folder)
    line = f"permafrost: there is no cache at {str(folder)!r}; name one with --cache DIR\n"
    assert (answer.status, answer.err) == (2, line)
    assert list(tmp_path.rglob("*")) == before


def name_sets(cache: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(cache)) for path in cache.glob("*/*/recipe.json"))


def read_features(file: Path) -> dict[str, np.ndarray]:
    with Features(file) as features:
        return {layer: features.read(layer) for layer in features.layers}


def test_compact_merges_and_every_view_stays_right(
    cache: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_features(tmp_path / "features.h5")
    monkeypatch.undo()
    with Features(tmp_path / "features.h5") as features:
        features.read("last:avg", np.array([3]))  # knows where its rows lie
        answer = command("compact", "--cache", cache)
        assert (features.read("last:avg") == expected["last:avg"]).all()
    assert answer.status == 0, answer.err
    sizes = [path.stat().st_size for path in sorted(cache.glob("*/*/shard-*.h5"))]
    assert answer.out.splitlines() == [
        *(
            f"{name}: 6 shards → 1, {size / 1e3:.1f} kB written"
            for name, size in zip(name_sets(cache), sizes, strict=True)
        ),
        "repeat extract to renew views for other HDF5 readers",
    ]
    for layer, values in read_features(tmp_path / "features.h5").items():
        assert (values == expected[layer]).all()
    assert command("verify", "--cache", cache).out.endswith("no damage\n")
    assert command("compact", "--cache", cache).out == "nothing to compact\n"
    assert command("compact", "--cache", cache, "--json").figures == {
        "feature_sets": 0,
        "shards_before": 2,
        "shards_after": 2,
        "bytes": 0,
        "skipped": [],
    }


def test_after_compact_nothing_is_computed_again_and_views_are_renewed(
    cache: Path, command: Command, extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_features(tmp_path / "features.h5")
    monkeypatch.undo()
    assert command("compact", "--cache", cache).status == 0
    assert extract().figures["computed"] == 0
    with h5py.File(tmp_path / "features.h5") as file:  # as others read it
        for layer, values in expected.items():
            assert (file[f"features/{layer}"][()] == values).all()


@pytest.mark.parametrize("name", ["gc", "compact"])
def test_a_damaged_set_is_left_as_it_is_and_others_are_not(
    cache: Path, command: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    shards = find_shards(cache)
    shards[2].write_bytes(shards[2].read_bytes()[:-20])
    before = list_content(shards[0].parent)
    rules = ("--keep-days", 0) if name == "gc" else ()
    answer = command(name, "--cache", cache, *rules)
    assert answer.status == 0
    assert list_content(shards[0].parent) == before
    assert f"{str(shards[2])!r} is damaged: " in answer.out
    assert "left as it is: see verify and repair" in answer.out
    assert len(list(cache.glob("*/first-none/shard-*.h5"))) == (0 if name == "gc" else 1)


def test_a_dry_run_says_what_a_real_one_does_and_changes_no_byte(
    cache: Path, command: Command, extract: Command, photos: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "few.csv"
    assert command("index", photos / "china", "--out", manifest).status == 0
    host = os.uname().nodename
    (cache / f".tmp-{host}-999999999-1-0.h5").write_bytes(b"half")
    arguments = ("gc", "--cache", cache, "--unused-by", manifest)
    before = list_content(cache)
    dry = command(*arguments, "--dry-run")
    assert dry.status == 0, dry.err
    assert list_content(cache) == before
    n_bytes = {
        name: sum(
            path.stat().st_size
            for path in (cache / name).glob("shard-*.h5")
            if not read_digests(path) & set(read_manifest(manifest).digests)
        )
        for name in name_sets(cache)
    }
    *table, last = dry.out.splitlines()
    assert table == [
        ".: 1 file, 4 bytes: left by killed runs",
        *(
            f"{name}: 6 rows, {n / 1e3:.1f} kB: in none of the manifests"
            for name, n in n_bytes.items()
        ),
    ]
    total = (sum(n_bytes.values()) + 4) / 1e3
    assert last == f"would drop 12 rows and {total:.1f} kB; nothing was touched"
    assert command(*arguments).out.splitlines() == [
        *table,
        f"dropped 12 rows and {total:.1f} kB",
        "repeat extract to renew views for other HDF5 readers",
    ]
    assert command(*arguments).out == "nothing to drop\n"
    assert not list(cache.rglob(".tmp-*"))
    assert command("verify", "--cache", cache).out.startswith("2 feature sets, ")
    assert extract(images=photos / "china").figures["computed"] == 0
    assert extract().figures["computed"] == 6


def test_rows_of_any_manifest_stay(
    cache: Path, command: Command, photos: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "china.csv"
    command("index", photos / "china", "--out", manifest)
    arguments = ("gc", "--cache", cache, "--json", "--unused-by")
    figures = command(*arguments, manifest, tmp_path / "features.h5").figures
    assert (figures["rows"], figures["feature_sets"], figures["dry_run"]) == (0, 0, False)
    figures = command(*arguments, manifest, "--dry-run").figures
    assert (figures["rows"], figures["feature_sets"], figures["dry_run"]) == (12, 2, True)


def test_a_manifest_that_names_no_image_is_refused(
    cache: Path, command: Command, tmp_path: Path
) -> None:
    manifest = tmp_path / "plain.csv"
    manifest.write_text("path,label\na.jpg,cat\n")
    answer = command("gc", "--cache", cache, "--unused-by", manifest)
    assert answer.status == 2
    assert "has no digests of images; write it with: python run.py index" in answer.err
    assert len(find_shards(cache)) == 6


def test_sets_that_were_not_used_go(cache: Path, command: Command, extract: Command) -> None:
    days_ago = time.time() - 40 * 24 * 3600
    for name in name_sets(cache):
        os.utime(cache / name / "recipe.json", (days_ago, days_ago))
    assert extract(layers="last:avg").status == 0
    gone, stays = sorted(name_sets(cache), key=lambda name: "last" in name)
    answer = command("gc", "--cache", cache, "--keep-days", 30)
    assert answer.out.startswith(f"{gone}: 12 rows, ")
    assert "kB: not used for 40 days\n" in answer.out
    assert name_sets(cache) == [stays]
    assert command("verify", "--cache", cache).out.endswith("no damage\n")


def test_reading_a_view_is_use(cache: Path, command: Command, tmp_path: Path) -> None:
    days_ago = time.time() - 40 * 24 * 3600
    for name in name_sets(cache):
        os.utime(cache / name / "recipe.json", (days_ago, days_ago))
    with Features(tmp_path / "features.h5") as features:
        features.read("last:avg", np.array([0]))
    figures = command("gc", "--cache", cache, "--keep-days", 30, "--json").figures
    assert [one["rows"] for one in figures["dropped"]] == [12]


def write_lease(cache: Path) -> None:
    keys = [recipe_key(json.loads(path.read_text())) for path in cache.glob("*/*/recipe.json")]
    Leases(cache / "leases", keys).hold([], waiting=False)


def write_half_a_shard(cache: Path) -> None:
    for path in cache.glob("*/*/recipe.json"):
        temporary_path(path.with_name("shard.h5")).touch()


@pytest.mark.parametrize("begin", [write_lease, write_half_a_shard])
def test_gc_keeps_its_hands_off_what_is_being_filled(
    cache: Path, command: Command, begin: Callable[[Path], None]
) -> None:
    (cache / "leases").mkdir(exist_ok=True)
    begin(cache)
    before = list_content(cache)
    answer = command("gc", "--cache", cache, "--keep-days", 0)
    assert answer.out.splitlines() == [
        *(
            f"{cache / name} is being filled by another run; left as it is"
            for name in name_sets(cache)
        ),
        "nothing to drop",
    ]
    assert list_content(cache).items() >= before.items()


def test_without_locks_gc_leaves_rows_that_are_there_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another gc, of which it cannot know, might drop the others."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    _, folder = write_set(tmp_path / "cache", [[0, 1], [1, 2]])
    with monkeypatch.context() as lockless:
        lockless.setattr("fcntl.flock", refuse)
        assert command("gc", "--cache", tmp_path / "cache", "--json").figures["rows"] == 0
    assert command("gc", "--cache", tmp_path / "cache", "--json").figures["rows"] == 1
    assert read_set(folder) == expect_set([0, 1, 2])


def test_a_damaged_format_is_named(cache: Path, command: Command) -> None:
    (cache / "format.json").write_text("{")
    answer = command("verify", "--cache", cache)
    assert (answer.status, answer.err.count("\n")) == (3, 1)
    assert f"{str(cache / 'format.json')!r} is damaged" in answer.err


def test_without_anything_to_do_gc_says_its_rules(cache: Path, command: Command) -> None:
    answer = command("gc", "--cache", cache)
    assert answer.out == ("nothing to drop; its rules are --keep-days N and --unused-by MANIFEST\n")
    answer = command("gc", "--cache", cache, "--keep-days", "-1")
    assert (answer.status, answer.err) == (2, "permafrost: --keep-days -1: it must be 0 or more\n")
