"""The file of the index: opened, shared by users and runs, and begun anew where it is garbage."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from permafrost.cache.disk.sharing import open_shared

_log = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
_SCHEMA = (
    """CREATE TABLE files (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE shards (
    feature_set TEXT NOT NULL, name TEXT NOT NULL, stamp TEXT NOT NULL, digests BLOB NOT NULL,
    PRIMARY KEY (feature_set, name))""",
    """CREATE TABLE failures (
    digest BLOB NOT NULL, decoding TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (digest, decoding)) WITHOUT ROWID""",
    "CREATE TABLE memos (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
# What a garbled file makes sqlite3 raise.
FAILURES = (sqlite3.DatabaseError, UnicodeDecodeError)
# Another run may be committing; a commit takes milliseconds.
_LOCK_TIMEOUT_S = 10.0
_RETRY_S = 0.02
# Bytes 18 and 19 of a file that is written with a write-ahead log, as earlier versions did.
_WAL_MARK = b"\x02\x02"


def open_index_file(path: Path | None) -> sqlite3.Connection:
    """Open an index, made when missing and replaced when it is garbage; in memory without a path.

    One that cannot be written is copied into memory. One that cannot be used at all is an empty
    one in memory, of which the log warns.
    """
    if path is None:
        return _connect(":memory:")
    try:
        return _copy_to_memory(path) if _is_read_only(path) else _open_writable(path)
    except (*FAILURES, OSError) as error:
        warn_of(path, error)
        return _connect(":memory:")


def _is_read_only(path: Path) -> bool:
    # SQLite makes its journal beside the file.
    return path.exists() and not os.access(path.parent, os.W_OK)


def _open_writable(path: Path) -> sqlite3.Connection:
    if path.exists() and not os.access(path, os.W_OK):
        # Another user's, who let nobody else write it, in a folder that lets us replace it.
        remove(path)
    open_shared(path).close()  # SQLite itself would give nobody else the right to write it.
    try:
        return _connect(str(path))
    except FAILURES as error:
        if not is_garbage(error):
            raise
    remove(path)
    open_shared(path).close()
    return _connect(str(path))


def _copy_to_memory(path: Path) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with contextlib.closing(open_unchanged(path)) as file:
        file.backup(memory)
    _prepare(memory)
    return memory


def open_unchanged(file: Path) -> sqlite3.Connection:
    """Open an index for reading; nothing is written, and no file is made beside it."""
    with file.open("rb") as stream:
        is_logged = stream.read(20)[18:] == _WAL_MARK
    # Without a writer there is no log, and one would be made for us, were it not for "immutable";
    # with a writer that word would have us read a page that is half written.
    has_log = file.with_name(f"{file.name}-wal").exists()
    mode = "mode=ro&immutable=1" if is_logged and not has_log else "mode=ro"
    return sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, timeout=_LOCK_TIMEOUT_S)


def remove(path: Path) -> None:
    """Remove the index and its journals, as far as possible."""
    for file in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(OSError):
            file.unlink()


def warn_of(what: object, error: Exception) -> None:
    """Say that an index is not used, and why."""
    _log.warning("%s cannot be used (%s); going on without it, slower", what, error)


def _connect(path: str) -> sqlite3.Connection:
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, check_same_thread=False)
        try:
            _prepare(connection)
        except FAILURES as error:
            connection.close()
            # SQLite itself does not wait while another run that starts now changes the journal.
            is_busy = _find_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not is_busy or time.monotonic() >= deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Not a write-ahead log: that needs memory which all runs share, so one host and a folder that
    # everyone can write. A run commits once for thousands of files, and once a shard.
    connection.execute("PRAGMA journal_mode = DELETE")
    if _read_version(connection) == _SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    # Asked again: another run may have made the tables just now, and filled them.
    if _read_version(connection) != _SCHEMA_VERSION:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        for (name,) in connection.execute(query).fetchall():
            connection.execute(f'DROP TABLE "{name}"')
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.commit()


def _read_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def is_garbage(error: Exception) -> bool:
    """Whether an error says that the file is none of SQLite's, or is damaged."""
    if isinstance(error, sqlite3.ProgrammingError):
        return False
    # Text that is no UTF-8, found by Python and not by SQLite, has no code.
    code = _find_code(error) or sqlite3.SQLITE_CORRUPT
    return code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _find_code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
