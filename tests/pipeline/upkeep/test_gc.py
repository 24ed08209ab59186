"""``gc`` drops what its rules name, and nothing that is in use."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.disk.publish import temporary_path
from permafrost.cache.store.folders import name_set
from permafrost.cache.store.leases import Leases, Uses
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.views.features import Features
from permafrost.stages.datasets.manifest import read_manifest
from tests.helpers.answers import Command
from tests.helpers.folders import find_shards, list_content, name_sets, read_digests
from tests.helpers.shards import expect_set, read_set, write_set


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
    assert count_files(cache) == 6 + 1  # of the backbone
    assert command(*arguments).out == "nothing to drop\n"
    assert not list(cache.rglob(".tmp-*"))
    assert command("verify", "--cache", cache).out.startswith("2 feature sets, ")
    assert extract(images=photos / "china").figures["computed"] == 0
    assert extract().figures["computed"] == 6


def count_files(cache: Path) -> int:
    with sqlite3.connect(cache / "index.sqlite") as index:
        ((n_files,),) = index.execute("SELECT count(*) FROM files").fetchall()
    index.close()
    return int(n_files)


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


def rely(cache: Path) -> None:
    uses = Uses(cache / "leases")
    uses.add([recipe_key(json.loads(path.read_text())) for path in cache.glob("*/*/recipe.json")])


def write_half_a_shard(cache: Path) -> None:
    for path in cache.glob("*/*/recipe.json"):
        temporary_path(path.with_name("shard.h5")).touch()


@pytest.mark.parametrize("begin", [write_lease, rely, write_half_a_shard])
def test_gc_keeps_its_hands_off_what_other_runs_fill_or_rely_on(
    cache: Path, command: Command, begin: Callable[[Path], None]
) -> None:
    (cache / "leases").mkdir(exist_ok=True)
    begin(cache)
    before = list_content(cache)
    answer = command("gc", "--cache", cache, "--keep-days", 0)
    assert answer.out.splitlines() == [
        *(f"{cache / name} is used by another run; left as it is" for name in name_sets(cache)),
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


def test_without_anything_to_do_gc_says_its_rules(cache: Path, command: Command) -> None:
    answer = command("gc", "--cache", cache)
    assert answer.out == ("nothing to drop; its rules are --keep-days N and --unused-by MANIFEST\n")
    answer = command("gc", "--cache", cache, "--keep-days", "-1")
    assert (answer.status, answer.err) == (2, "permafrost: --keep-days -1: it must be 0 or more\n")


def test_what_is_in_quarantine_is_named_and_goes_after_days(
    cache: Path, command: Command, extract: Command
) -> None:
    one, other = find_shards(cache)[:2]
    one.write_bytes(one.read_bytes()[:-20])
    assert command("repair", "--cache", cache).status == 0
    assert extract("--batch-size", 2).figures["computed"] == 2
    aside = one.parent / "quarantine" / one.name
    verified = command("verify", "--cache", cache)
    assert (verified.status, "  1 file in quarantine/; gc --keep-days N" in verified.out) == (
        0,
        True,
    )
    for rules in ((), ("--keep-days", 1)):
        answer = command("gc", "--cache", cache, *rules)
        assert "1 file in quarantine/" in answer.out
        assert aside.exists()
    os.utime(aside, (0, 0))
    assert (
        command("gc", "--cache", cache, "--keep-days", 1, "--dry-run").out.count("quarantine") == 2
    )
    answer = command("gc", "--cache", cache, "--keep-days", 1)
    assert f"{name_set(one.parent)}: 1 file, " in answer.out
    assert not aside.exists()
    assert other.exists()
    assert command("verify", "--cache", cache).status == 0


def test_a_feature_set_goes_with_its_quarantine(cache: Path, command: Command) -> None:
    folder = find_shards(cache)[0].parent
    find_shards(cache)[0].write_bytes(b"no shard")
    assert command("repair", "--cache", cache).status == 0
    assert command("gc", "--cache", cache, "--keep-days", 0).status == 0
    assert not folder.exists()
