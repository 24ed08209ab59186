"""The index: several processes and threads use it, and none of them needs it."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from permafrost.cache.store.index import Index, IndexedFile, IndexedShard
from tests.helpers import ROOT
from tests.helpers.shards import make_digests

_WRITER = """
import sys, time
from pathlib import Path
from permafrost.cache.store.index import Index, IndexedFile
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
with Index(Path(sys.argv[1])) as index:
    index.add_files([IndexedFile(sys.argv[2], "print", bytes(32))])
"""


def know(index: Index, *keys: str) -> set[str]:
    found = index.digests_of(keys, ["print"] * len(keys))
    return {key for key, digest in zip(keys, found, strict=True) if digest}


def test_runs_that_start_at_once_make_one_index(tmp_path: Path) -> None:
    """Of which each is the first; none loses what another has remembered, or goes without."""
    path, names = tmp_path / "index.sqlite", [str(number) for number in range(6)]
    moment = time.time() + 4
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), name, str(moment)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    assert [writer.communicate()[1] for writer in writers] == [""] * 6
    with Index(path) as index:
        assert know(index, *names) == set(names)


def test_an_index_that_stays_locked_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("permafrost.cache.store.index_file._LOCK_TIMEOUT_S", 0.05)
    path = tmp_path / "index.sqlite"
    with Index(path) as index:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        for name in ("a", "b"):
            index.add_files([IndexedFile(name, "print", bytes(32))])
        assert know(index, "a", "b") == {"a", "b"}
        with Index(path) as late:
            assert know(late, "a") == set()
        blocker.close()
    assert [message.count("database is locked") for message in caplog.messages] == [1, 1]


def open_with(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SQLite open files so."""
    connect = sqlite3.connect

    def connect_so(path: str, **how: object) -> sqlite3.Connection:
        uri = f"{Path(path).as_uri()}?{query}" if path != ":memory:" else path
        return connect(uri, uri=True, **how)

    monkeypatch.setattr(sqlite3, "connect", connect_so)


def test_an_index_that_can_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index(tmp_path / "index.sqlite") as index:
        index.add_files([IndexedFile("before", "print", bytes(32))])
    open_with("mode=ro", monkeypatch)
    with Index(tmp_path / "index.sqlite") as index:
        assert know(index, "before") == {"before"}
        index.add_files([IndexedFile("now", "print", bytes(32))])
        assert know(index, "now") == {"now"}


# Both cannot share memory, which WAL needs; the second has no locks either.
@pytest.mark.parametrize("system", ["unix-dotfile", "unix-none"])
def test_a_file_system_without_shared_memory_has_an_index_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    open_with(f"vfs={system}", monkeypatch)
    for name in ("a", "b"):
        with Index(tmp_path / "index.sqlite") as index:
            index.add_files([IndexedFile(name, "print", bytes(32))])
    with Index(tmp_path / "index.sqlite") as index:
        assert know(index, "a", "b") == {"a", "b"}


def test_threads_share_an_index(tmp_path: Path) -> None:
    with Index(tmp_path / "index.sqlite") as index:

        def write(name: str) -> None:
            for number in range(50):
                index.add_files([IndexedFile(f"{name}{number}", "print", bytes(32))])
                know(index, f"{name}{number}")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [f"{name}{number}" for name in "abc" for number in range(50)]
        assert know(index, *names) == set(names)


def test_pruning_forgets_what_has_no_row_and_gives_its_room_back(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    digests = make_digests(range(4000))
    with Index(path) as index:
        index.add_files(
            IndexedFile(str(number), "print", digest.tobytes())
            for number, digest in enumerate(digests)
        )
        index.replace_shards("a1", add=[IndexedShard("one", "stamp", digests[:10])])
        index.replace_shards("b2", add=[IndexedShard("two", "stamp", digests[10:20])])
        index.add_failures("decoding", {digests[20].tobytes(): "broken"})
        for kind in ("origin a1", "origin b2", "other"):
            index.add_memo(kind, "text")
        before = path.stat().st_size
        index.prune(["b"])
        names = [str(number) for number in range(4000)]
        assert know(index, *names) == {str(number) for number in range(10, 21)}
        assert index.feature_sets() == ["b2"]
        assert [index.memo(kind) for kind in ("origin a1", "origin b2", "other")] == [
            *(None, "text", "text")
        ]
        assert path.stat().st_size < before / 4
        index.prune([])
        assert know(index, *names) == {"20"}


@pytest.mark.parametrize("n_between", [0, 1, 50])
def test_files_are_known_whatever_others_lie_between_them(tmp_path: Path, n_between: int) -> None:
    """By order of name, of which SQLite's is that of bytes, and has those that are no text last."""
    asked = [f"/p/{number:02d}{odd}.png" for number in range(9) for odd in ("", "é", "\udcff")]
    asked += ["/p/00😀.png", "/p/00\uffee.png"]
    others = [f"{name}.{number}" for name in asked for number in range(n_between)]
    with Index(tmp_path / "index") as index:
        files = ((name, hashlib.sha256(os.fsencode(name)).digest()) for name in [*others, *asked])
        index.add_files(IndexedFile(name, "print", digest) for name, digest in files)
        twice = ["/a", *asked, "/z", "/\udcee", asked[4]]
        for some in (asked, asked[::-1], asked[::7], asked[3:4], twice):
            expected = [hashlib.sha256(os.fsencode(name)).digest() for name in some]
            assert index.digests_of(some, ["print"] * len(some)) == [
                digest if name in asked else b""
                for name, digest in zip(some, expected, strict=True)
            ]
        others = ["another", OSError(), None] * (len(asked) // 3)
        assert index.digests_of(asked[: len(others)], others) == [b""] * len(others)
        assert index.digests_of([], []) == []
