"""One cache, and users with rights of their own."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from permafrost.cache.disk.locks import lock
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import count_idle_days, mark_used
from permafrost.cache.store.index import Index, IndexedFile
from permafrost.cache.store.layout import find_cache
from permafrost.cache.store.leases import Leases
from tests.cache.store.test_index import know
from tests.helpers.shards import KEY, RECIPE, make_digests, write_set
from tests.helpers.users import User, needs_root, shared_folder

GROUP = 54321
ALICE, BOB = User(50001, GROUP), User(50002, GROUP)
STRANGER = User(50003, 60000)
DAY_S = 24 * 3600

pytestmark = needs_root


@pytest.fixture(autouse=True)
def _imported(tmp_path: Path) -> None:
    """Import what is imported late while Python's own folder can surely be read."""
    fill(tmp_path / "rehearsal", number=0)


@pytest.fixture
def cache() -> Iterator[Path]:
    """A folder of the group, as ``chmod g+rws`` makes it."""
    with shared_folder(group=GROUP, mode=0o2775) as folder:
        yield folder


def fill(cache: Path, *, number: int) -> None:
    """Do what an extraction does: a lease, a shard, and what the index is to remember."""
    layout, folder = write_set(cache, [[number]])
    with Leases(layout.leases_folder, [KEY]) as leases, leases.choosing():
        leases.hold([bytes(32)], waiting=False)
        assert leases._is_usable
    with Index(layout.index_file) as index:
        index.add_files([IndexedFile(f"file {number}", "print", bytes(32))])
        assert len(FeatureSet(layout, RECIPE, index)) == len(list(folder.glob("shard-*.h5")))
    with lock(layout.upkeep_lock, purpose="nobody") as is_held:
        assert is_held


def list_known(cache: Path) -> set[str]:
    with Index(find_cache(cache).index_file) as index:
        return know(index, *(f"file {number}" for number in range(5)))


def test_a_group_shares_a_cache_whatever_the_umask(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def as_first() -> None:
        fill(cache, number=1)
        for recipe in cache.glob("*/*/recipe.json"):
            os.utime(recipe, (0, 0))

    def as_second() -> None:
        fill(cache, number=2)
        assert list_known(cache) == {"file 1", "file 2"}
        (recipe,) = cache.glob("*/*/recipe.json")
        mark_used(recipe.parent)
        assert count_idle_days(recipe.parent) < 1
        assert not caplog.messages

    def as_first_again() -> None:
        fill(cache, number=3)
        assert list_known(cache) == {"file 1", "file 2", "file 3"}
        assert not caplog.messages

    ALICE.run(as_first)
    BOB.run(as_second)
    ALICE.run(as_first_again)


def test_an_index_that_its_owner_kept_for_himself_is_begun_anew(cache: Path) -> None:
    """As earlier versions made them, with what SQLite left beside them."""

    def as_first() -> None:
        fill(cache, number=1)
        index = find_cache(cache).index_file
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("DELETE FROM memos")
            connection.commit()
            for file in cache.glob("index.sqlite*"):
                file.chmod(0o644)
            os._exit(0)  # killed: the log stays

    def as_second() -> None:
        fill(cache, number=2)
        assert list_known(cache) == {"file 2"}

    ALICE.run(as_first)
    BOB.run(as_second)
    ALICE.run(lambda: fill(cache, number=3))
    BOB.run(lambda: exact(list_known(cache), {"file 2", "file 3"}))


def exact(found: set[str], expected: set[str]) -> None:
    assert found == expected


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_whoever_may_only_read_knows_what_the_index_knows_and_leaves_nothing(
    cache: Path, caplog: pytest.LogCaptureFixture, journal: str
) -> None:
    def as_owner() -> None:
        fill(cache, number=1)
        with sqlite3.connect(find_cache(cache).index_file) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.close()

    def as_reader() -> None:
        before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
        assert list_known(cache) == {"file 1"}
        with Index(find_cache(cache).index_file) as index:
            index.add_files([IndexedFile("file 4", "print", bytes(32))])
            assert know(index, "file 1", "file 4") == {"file 1", "file 4"}
            rows = FeatureSet(find_cache(cache), RECIPE, index)
            assert not rows.locate([digest.tobytes() for digest in make_digests([1])]).missing.any()
        assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
        assert not caplog.messages

    ALICE.run(as_owner)
    STRANGER.run(as_reader)


def test_a_cache_that_is_private_stays_so() -> None:
    with shared_folder(group=GROUP, mode=0o700) as cache:
        os.chown(cache, ALICE.uid, GROUP)
        ALICE.run(lambda: fill(cache, number=1))
        modes = [path.stat().st_mode & 0o077 for path in cache.rglob("*")]
        assert len(modes) > 5
        assert not any(modes)
