"""index.sqlite remembers digests of files, rows of shards and images that failed; never the truth.

It may be deleted at any time. Where it cannot be used (read-only, a file system without locks,
garbage in the file) everything goes on with an index in memory: right, but slower next time.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from permafrost.cache.hdf5.checksum import SUM_HEX_DIGITS, sum_text
from permafrost.cache.store.index_file import (
    FAILURES,
    is_garbage,
    open_index_file,
    remove,
    warn_of,
)


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file's digest, valid as long as its fingerprint is."""

    key: str
    fingerprint: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class IndexedShard:
    """Which rows a shard holds: `digests` is uint8 (n, 32); `stamp` tells file versions apart."""

    name: str
    stamp: str
    digests: np.ndarray


# What `digests_of` reads, and of how many rows for each that is asked for.
_FILES = "SELECT key, fingerprint, digest FROM files"
_SCANNED = 2
_DIGEST_BYTES = 32
_HEX_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class Index:
    """The open index. Every method works whatever becomes of the file.

    Parameters
    ----------
    path : Path, optional
        ``index.sqlite``; created when missing, replaced when it is garbage. In memory without.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._connection = open_index_file(path)
        # One thread looks up what another commits.
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def digests_of(self, keys: Sequence[str], fingerprints: Sequence[object]) -> list[bytes]:
        """Return the digest of each file that is known and unchanged, ``b""`` of any other.

        Files that are neighbours by name are found two to three times as fast as others.

        Parameters
        ----------
        keys : sequence of str, length n
        fingerprints : sequence, length n
            Of the files as they are now; what is no text is nobody's.
        """
        wanted = dict(zip(keys, fingerprints, strict=True))
        known: dict[str, Any] = {}

        def note(rows: Iterable[Any]) -> tuple[int, Any]:
            n_rows, key = 0, ""
            # One by one: a list of a thousand rows wakes the garbage collector.
            for key, fingerprint, digest in rows:
                n_rows += 1
                name = _to_name(key) if isinstance(key, bytes) else key
                if wanted.get(name) == fingerprint:
                    known[name] = digest
            return n_rows, key

        # As SQLite sorts them.
        texts, blobs = sorted(wanted), []
        if not all(map(str.isascii, texts)):
            names = [*map(_to_blob_text, texts)]
            texts = [name for name in names if isinstance(name, str)]
            blobs = [name for name in names if isinstance(name, bytes)]
        for some in _batched([*self._scan(texts, note), *blobs]):
            marks = ",".join("?" * len(some))
            self._query(f"{_FILES} WHERE key IN ({marks})", some, read=note)
        # A garbled index may answer with what was not asked for.
        return [
            digest if isinstance(digest, bytes) and len(digest) == _DIGEST_BYTES else b""
            for digest in map(known.get, keys)
        ]

    def _scan(self, keys: list[str], note: Callable[[Iterable[Any]], tuple[int, Any]]) -> list[str]:
        """Read rows from the first to the last of sorted keys, and return the keys that lie behind.

        One pass over neighbours takes two thirds of what looking each of them up does; where others
        lie between them it ends after as many again.
        """
        if not keys:
            return []
        most = _SCANNED * len(keys)
        n_rows, last = self._query(
            f"{_FILES} WHERE key BETWEEN ? AND ? LIMIT ?", [keys[0], keys[-1], most], read=note
        )
        return keys[bisect.bisect(keys, str(last)) :] if n_rows == most else []

    def add_files(self, files: Iterable[IndexedFile]) -> None:
        """Remember digests of files."""
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
            [(_to_blob_text(file.key), file.fingerprint, file.digest) for file in files],
        )

    def forget_files(self, keys: Iterable[str]) -> None:
        """Forget files whose bytes are not those that their fingerprints stand for."""
        self._write("DELETE FROM files WHERE key = ?", [(_to_blob_text(key),) for key in keys])

    def files_of(self, digests: Collection[bytes]) -> dict[bytes, list[IndexedFile]]:
        """Return the files that held these bytes when they were last hashed."""
        # One pass over the table, which has no index by digest: it would cost every run more than
        # the few that ask this.
        self._connection.create_function("is_wanted", 1, set(digests).__contains__)
        found: dict[bytes, list[IndexedFile]] = {}
        query = "SELECT key, fingerprint, digest FROM files WHERE is_wanted(digest)"
        for key, fingerprint, digest in self._query(query, []):
            file = IndexedFile(_to_name(key), fingerprint, digest)
            found.setdefault(digest, []).append(file)
        return found

    def stamps_of(self, feature_set: str) -> dict[str, str]:
        """Return the stamps of the shards that are known of a feature set, by name."""
        query = "SELECT name, stamp FROM shards WHERE feature_set = ?"
        return dict(self._query(query, [feature_set]))

    def rows_of(self, feature_set: str, name: str) -> np.ndarray | None:
        """Return which rows a shard holds, uint8 (n, 32); None where that is not known."""
        query = "SELECT digests FROM shards WHERE feature_set = ? AND name = ?"
        for (digests,) in self._query(query, [feature_set, name]):
            if isinstance(digests, bytes) and len(digests) % _DIGEST_BYTES == 0:
                return np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES)
        return None

    def feature_sets(self) -> list[str]:
        """Return the keys of the feature sets whose shards are known."""
        return [key for (key,) in self._query("SELECT DISTINCT feature_set FROM shards", [])]

    def replace_shards(
        self, feature_set: str, *, add: Iterable[IndexedShard], remove: Iterable[str] = ()
    ) -> None:
        """Remember shards, and forget those that are gone."""
        self._write(
            "DELETE FROM shards WHERE feature_set = ? AND name = ?",
            [(feature_set, name) for name in remove],
        )
        self._write(
            "INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)",
            [(feature_set, shard.name, shard.stamp, shard.digests.tobytes()) for shard in add],
        )

    def prune(self, prefixes: Collection[str]) -> None:
        """Forget what nobody asks for, and give its room back.

        That is what is known of feature sets whose keys begin with none of `prefixes`, and of files
        whose bytes have no row any more, are no failure, and are in no memo's key, as weights are:
        hashing an image again takes less than computing it.
        """
        gone = [key for key in self.feature_sets() if not key.startswith(tuple(prefixes))]
        self._write("DELETE FROM shards WHERE feature_set = ?", [(key,) for key in gone])
        memos = [(f"{kind} {key}",) for key in gone for kind in ("origin", "recipe")]
        self._write("DELETE FROM memos WHERE key = ?", memos)
        rows = self._query("SELECT digests FROM shards UNION ALL SELECT digest FROM failures", [])
        for (key,) in self._query("SELECT key FROM memos", []):
            rows += [(bytes.fromhex(digest),) for digest in _HEX_DIGEST.findall(str(key))]
        # As numbers, which take a third of the memory; each of 8 bytes is as good as a digest.
        words = [np.frombuffer(row, np.uint64)[::4] for (row,) in rows if len(row) % 32 == 0]
        used = np.unique(np.concatenate([np.empty(0, np.uint64), *words]))
        files = self._query("SELECT key, digest FROM files", [])
        digests = np.array([digest for _, digest in files], "S32").view(np.uint64)[::4]
        is_used = np.isin(digests, used)
        idle = [(key,) for (key, _), stays in zip(files, is_used, strict=True) if not stays]
        self._write("DELETE FROM files WHERE key = ?", idle)
        if gone or idle:
            with self._lock, contextlib.suppress(*FAILURES):  # Another run may be reading it.
                self._connection.execute("VACUUM")

    def failures(self, decoding: str) -> dict[bytes, str]:
        """Return digest → reason of the images that could not be decoded in this way."""
        query = "SELECT digest, reason FROM failures WHERE decoding = ?"
        return dict(self._query(query, [decoding]))

    def add_failures(self, decoding: str, reasons: Mapping[bytes, str]) -> None:
        """Remember images whose bytes cannot be decoded."""
        self._write(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)",
            [(digest, decoding, reason) for digest, reason in reasons.items()],
        )

    def memo(self, key: str) -> str | None:
        """Return a remembered text."""
        for (value,) in self._query("SELECT value FROM memos WHERE key = ?", [key]):
            text = str(value)[SUM_HEX_DIGITS:]
            # SQLite has no checksums, and what is remembered here is believed.
            return text if _seal(key, text) == value else None
        return None

    def add_memo(self, key: str, value: str) -> None:
        """Remember a text."""
        self._write("INSERT OR REPLACE INTO memos VALUES (?, ?)", [(key, _seal(key, value))])

    def forget_memo(self, key: str) -> None:
        """Forget a remembered text."""
        self._write("DELETE FROM memos WHERE key = ?", [(key,)])

    def _query(
        self, query: str, values: list[Any], read: Callable[[Iterable[Any]], Any] = list
    ) -> Any:
        """Return what `read` makes of the rows; of none where the file cannot be used."""
        with self._lock:
            try:
                return read(self._connection.execute(query, values))
            except FAILURES as error:
                self._fall_back(error)
                return read(())

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        with self._lock:
            try:
                self._execute(statement, rows)
            except FAILURES as error:
                self._fall_back(error)
                self._execute(statement, rows)

    def _execute(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        with self._connection:
            self._connection.executemany(statement, rows)

    def _fall_back(self, error: Exception) -> None:
        warn_of("the index", error)
        self._connection.close()
        if self._path is not None and is_garbage(error):
            remove(self._path)  # The next run starts a new one.
        self._connection = open_index_file(None)


def _batched(keys: list[str | bytes], size: int = 500) -> Iterator[list[str | bytes]]:
    """Cut a list into pieces: SQLite's limit is 32,766 parameters, its best a few hundred."""
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _to_blob_text(name: str) -> str | bytes:
    """SQLite text is UTF-8; a file name that is not goes in as bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape")
    return name


def _to_name(text: object) -> str:
    return text.decode(errors="surrogateescape") if isinstance(text, bytes) else str(text)


def _seal(key: str, text: str) -> str:
    """Put a checksum before a text."""
    return sum_text(f"{key} {text}") + text
