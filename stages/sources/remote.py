"""Images at a URL that fsspec can read: object stores such as S3, and web servers that list."""

from __future__ import annotations

import os
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from permafrost.stages.errors import InputError
from permafrost.stages.sources.boxes import drop_box
from permafrost.stages.sources.folder import (
    MAX_FILE_BYTES,
    Listing,
    check_size,
    is_visible,
    make_missing,
    sort_files,
)
from permafrost.stages.sources.retries import (
    READ_TIMEOUT_S,
    explain,
    find_status,
    retry_listing,
    retry_reading,
)

# A request waits for its answer most of the time, tens of milliseconds.
REMOTE_READERS = 32
_CONNECT_TIMEOUT_S = 10
# What stays silent for so long has gone; whole answers have READ_TIMEOUT_S.
_SILENCE_TIMEOUT_S = 20

_RANGE_NOT_SATISFIABLE = 416

# At least two letters: one is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HTTP = ("http://", "https://")
_NOT_A_FOLDER = (".zip", ".tar", ".npz", ".csv", ".gz", ".tgz", ".bz2", ".xz")
# The extra of this project that brings what fsspec needs.
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}

# In a listing or an answer: what changes with the bytes; else when they were last written.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "crc32c")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a listing says of a file; None for what it does not."""

    size_bytes: int | None
    version: str | None


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """The files below a URL.

    Parameters
    ----------
    root : str
    files : dict of str to RemoteFile, optional
        The listing. It does not travel to workers; without it each file is asked for by itself.
    """

    root: str
    files: Mapping[str, RemoteFile] | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteSource, (self.root,)

    def list_images(self) -> list[str]:
        """List the images, sorted by their bytes."""
        return self.list_files().images

    def list_files(self) -> Listing:
        """List the files; there are no empty folders on a server."""
        return sort_files(filter(is_visible, self.files or ()))

    def read(self, path: str) -> bytes:
        """Return a file's bytes; `OSError` when that failed, several times if need be."""
        path = drop_box(path)
        (key,) = self.file_keys([path])
        file = self.files.get(path) if self.files else None
        if file is not None and file.size_bytes is not None:
            check_size(file.size_bytes, key)
        return retry_reading(lambda: _download(self.root, path), key)

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield the file in one block."""
        yield self.read(path)

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return the URL of each."""
        root = self.root.rstrip("/")
        return [f"{root}/{_quote(path, root)}" for path in paths]

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return the checksum that the listing gives, or the time and size."""
        files = [*map(drop_box, paths)]
        told = {path: self._look_up(path) for path in files}
        untold = [path for path, fingerprint in told.items() if fingerprint is None]
        with ThreadPoolExecutor(REMOTE_READERS) as pool:
            told |= zip(untold, pool.map(self._ask, untold), strict=True)
        return [told[path] or _make_unknown() for path in files]

    def make_absolute(self) -> RemoteSource:
        """Return itself: a URL means the same everywhere."""
        return self

    def _look_up(self, path: str) -> str | OSError | None:
        """Return what the listing says; None where it says nothing."""
        if self.files is None:
            return None
        file = self.files.get(path)
        return make_missing(path) if file is None else file.version

    def _ask(self, path: str) -> str | OSError | None:
        filesystem, name = _locate(self.root, path)
        try:
            return _find_version(filesystem.info(name))
        except FileNotFoundError:
            # Of a web server that is any failure, and what is listed is there.
            return None if self.files else make_missing(path)
        # Why a file cannot be had is for reading it to say.
        except Exception:  # noqa: BLE001
            return None


def _make_unknown() -> str:
    """Return a fingerprint of what cannot be told from its next version: no digest is kept."""
    return f"unknown:{secrets.token_hex(8)}"


def is_url(location: str) -> bool:
    """Whether a location is for fsspec, rather than a path."""
    return _URL.match(location) is not None


def split_url(url: str) -> tuple[RemoteSource, str]:
    """Return a source, not listed, and the path of a file in it, given the file's URL.

    All files of a bucket or server get the same: a connection for each folder would cost much.
    """
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    root = f"{scheme}://{place}"
    return RemoteSource(root), _unquote(path, root)


def open_remote(root: str) -> RemoteSource:
    """List what lies at a URL.

    Raises
    ------
    InputError
        When there is no such place, it does not answer, or a package for it is missing.
    """
    if root.lower().endswith(_NOT_A_FOLDER):
        raise InputError(
            f"{root!r} is not a folder; archives and tables are read from the disk: download it"
        )
    filesystem, prefix = _open_filesystem(root, os.getpid())
    found = retry_listing(lambda: _find_all(filesystem, prefix), root)
    return RemoteSource(
        root,
        {
            _unquote(name.removeprefix(prefix), root): RemoteFile(
                info.get("size"), _find_version(info)
            )
            for name, info in found.items()
            if name.startswith(prefix)
        },
    )


def _find_all(filesystem: Any, prefix: str) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = filesystem.find(prefix, detail=True)
    if not found:
        # It leaves out what cannot be listed; this says why.
        filesystem.ls(prefix)
    return found


def _find_version(info: Mapping[str, Any]) -> str | None:
    for names in (_CHECKSUMS, _TIMES):
        for name in names:
            if info.get(name):
                return f"{info[name]}:{info.get('size')}"
    return None


_opening = threading.Lock()


def _open_filesystem(root: str, process: int) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the prefix of its paths there.

    One for all threads of a process, which fsspec itself would not give; none survives a fork.
    """
    with _opening:
        return _make_filesystem(root, process)


@lru_cache(maxsize=4)
def _make_filesystem(root: str, _process: int) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = root.partition("://")[0].lower()
    try:
        filesystem, path = url_to_fs(
            root, skip_instance_cache=True, use_listings_cache=False, **_choose_options(scheme)
        )
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f'pip install "permafrost[{extra}]"' if extra else str(error)
        raise InputError(f"cannot read {root!r}: a package is missing; {remedy}") from error
    # Whatever a file system has against its address or the settings in the environment.
    except Exception as error:
        raise InputError(f"cannot open {root!r}: {explain(error)}; correct it") from error
    if scheme in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem, path.rstrip("/") + "/"


def _locate(root: str, path: str) -> tuple[Any, str]:
    """Return the file system and what it calls a file."""
    filesystem, prefix = _open_filesystem(root, os.getpid())
    return filesystem, prefix + _quote(path, root)


def _quote(path: str, root: str) -> str:
    if root.lower().startswith(_HTTP):
        return urllib.parse.quote(path, errors="surrogateescape")
    return path


def _unquote(name: str, root: str) -> str:
    """Return the path of a file as it would be on the disk: links are quoted."""
    if root.lower().startswith(_HTTP):
        return urllib.parse.unquote(name, errors="surrogateescape")
    return name


def _choose_options(scheme: str) -> dict[str, Any]:
    """Choose timeouts, and no retries: `stages.sources.retries` has them, for all alike."""
    if scheme in ("s3", "s3a"):
        return {
            "config_kwargs": {
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "read_timeout": _SILENCE_TIMEOUT_S,
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": 2 * REMOTE_READERS,
            }
        }
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=READ_TIMEOUT_S,
            sock_connect=_CONNECT_TIMEOUT_S,
            sock_read=_SILENCE_TIMEOUT_S,
        )
        return {"client_kwargs": {"timeout": timeout}}
    return {}


def _download(root: str, path: str) -> bytes:
    from fsspec.asyn import AsyncFileSystem

    filesystem, name = _locate(root, path)
    # One byte more than may be: then the answer is too large, and is not read on.
    if root.lower().startswith(_HTTP):
        # A server may ignore the range, so the stream is cut here. The size is not known, but one
        # must be given, or else a second request asks for it.
        with filesystem.open(name, "rb", block_size=0, size=1) as stream:
            data = _read_stream(stream)
    else:
        limit = {"timeout": READ_TIMEOUT_S} if isinstance(filesystem, AsyncFileSystem) else {}
        data = _read_range(filesystem, name, limit)
    check_size(len(data), name)
    return data


def _read_range(filesystem: Any, name: str, limit: dict[str, int]) -> bytes:
    try:
        data: bytes = filesystem.cat_file(name, start=0, end=MAX_FILE_BYTES + 1, **limit)
    except OSError as error:
        # Only an empty file has no first byte.
        if find_status(error) == _RANGE_NOT_SATISFIABLE:
            return b""
        raise
    return data


def _read_stream(stream: Any) -> bytes:
    blocks, n_bytes = [], 0
    while n_bytes <= MAX_FILE_BYTES and (block := stream.read(1 << 20)):
        blocks.append(block)
        n_bytes += len(block)
    return b"".join(blocks)
