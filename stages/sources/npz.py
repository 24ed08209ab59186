"""Images in the arrays of an ``.npz`` file, as keras.datasets and MedMNIST keep them.

Each row of an array of images is a member of its own, the PGM or PPM file of its pixels, and the
labels are a table: to everyone else it is an archive like others.
"""

from __future__ import annotations

import csv
import errno
import io
import itertools
import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from permafrost.refusals import SHORTAGES
from permafrost.stages.errors import InputError
from permafrost.stages.sources.folder import MAX_FILE_BYTES
from permafrost.stages.sources.members import Member, MemberError, refuse_archive
from permafrost.stages.sources.zip import ZipMember, list_zip

_log = logging.getLogger(__name__)

# The folder that a set's images go to → how its arrays of images and labels may be called.
_SETS = {
    f"{split}/": ((f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels"))
    for split in ("train", "val", "test")
} | {"": (("x", "y"), ("images", "labels"))}

# A crafted file may claim any number of rows, and each costs a few hundred bytes of memory.
_MAX_ROWS = 10_000_000
_TABLE = "labels.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What an array says about itself."""

    name: str
    member: ZipMember
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool
    start: int  # bytes of the member before the values


class _Rows:
    """An array of images, read row by row: in the archive, or inflated once beside it."""

    def __init__(self, header: _Header, archive: str) -> None:
        height, width, *channels = header.shape[1:]
        kind = "P6" if channels == [3] else "P5"
        self.prefix = f"{kind}\n{width} {height}\n255\n".encode()
        self.suffix = ".ppm" if kind == "P6" else ".pgm"
        self.row_bytes = math.prod(header.shape[1:])
        self._member = header.member
        self._stored = header.member.is_stored
        self._start = header.start + (header.member.find_data(archive) if self._stored else 0)
        self._inflating = threading.Lock()
        self._inflated: IO[bytes] | None = None
        self._broken = ""

    def read(self, row: int, archive: str) -> bytes:
        """Return the pixels of a row; fewer where the file ends."""
        place = self._start + row * self.row_bytes
        if not self._stored:
            return os.pread(self._open_inflated(archive).fileno(), self.row_bytes, place)
        with Path(archive).open("rb", buffering=0) as stream:
            return os.pread(stream.fileno(), self.row_bytes, place)

    def _open_inflated(self, archive: str) -> IO[bytes]:
        with self._inflating:
            # What cannot be inflated is not tried again for every row.
            if self._inflated is None and not self._broken:
                try:
                    self._inflated = _inflate(self._member, archive)
                except (MemberError, OSError) as error:
                    if getattr(error, "errno", None) in SHORTAGES:
                        raise
                    self._broken = str(error)
            if self._inflated is None:
                raise MemberError(self._broken)
            return self._inflated


@dataclass(frozen=True, slots=True)
class _Row:
    """One image: the file that its pixels make."""

    rows: _Rows
    row: int

    @property
    def size_bytes(self) -> int:
        return len(self.rows.prefix) + self.rows.row_bytes

    @property
    def fingerprint(self) -> str:
        return str(self.row)

    def read_blocks(self, archive: str) -> Iterator[bytes]:
        pixels = self.rows.read(self.row, archive)
        if len(pixels) < self.rows.row_bytes:
            raise MemberError("the archive ends too early")
        yield self.rows.prefix + pixels


@dataclass(frozen=True, slots=True)
class _Table:
    """The labels, as the CSV file that they make."""

    content: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def fingerprint(self) -> str:
        return str(len(self.content))

    def read_blocks(self, archive: str) -> Iterator[bytes]:
        yield self.content


def list_arrays(archive: str) -> Iterator[tuple[str, Member]]:
    """Yield an image for each row of the arrays of images, and the table of their labels.

    Images are ``train/00042.ppm`` and so on (``.pgm`` if grey), and ``00042.ppm`` from arrays of
    no split.

    Raises
    ------
    OSError
        When it is no npz file, or is damaged.
    InputError
        When it has no arrays of images, or they or their labels are of another kind.
    """
    try:
        yield from _walk(archive)
    except InputError:
        raise
    # On garbage, zipfile and numpy raise anything from BadZipFile to SyntaxError.
    except Exception as error:
        raise refuse_archive(archive, "npz", error) from error


def _walk(archive: str) -> Iterator[tuple[str, Member]]:
    arrays = {
        name.removesuffix(".npy").lower(): (name.removesuffix(".npy"), member)
        for name, member in list_zip(archive)
        if member
    }
    sets = [
        (folder, images, labels)
        for folder, namings in _SETS.items()
        for images, labels in namings
        if images in arrays
    ]
    if not sets:
        written = ", ".join(repr(name) for name, _ in list(arrays.values())[:20])
        raise InputError(
            f"{archive!r} has no arrays called x_train and y_train, x_val and y_val, x_test and"
            f" y_test, or x and y; rename those it has: {written or 'none'}"
        )
    used = {name for _, *pair in sets for name in pair}
    unread = [written for name, (written, _) in arrays.items() if name not in used]
    if unread:
        _log.warning(
            "%r: %d arrays are not read; the first is %r; sets are x_train and y_train, x_val and"
            " y_val, x_test and y_test",
            *(archive, len(unread), unread[0]),
        )
    table: list[tuple[str, str]] = []
    for folder, images, labels in sets:
        header = _read_header(arrays[images], archive)
        _check_images(header, archive)
        rows = _Rows(header, archive)
        names = _name_rows(folder, header.shape[0], rows.suffix)
        yield from zip(names, map(_Row, itertools.repeat(rows), itertools.count()), strict=False)
        if labels in arrays:
            found = _read_labels(_read_header(arrays[labels], archive), archive, n=len(names))
            table += zip(names, found, strict=True)
    if table:
        yield _TABLE, _make_table(table)


def _name_rows(folder: str, n: int, suffix: str) -> list[str]:
    digits = max(5, len(str(n - 1)))
    return [f"{folder}{row:0{digits}}{suffix}" for row in range(n)]


def _read_header(array: tuple[str, ZipMember], archive: str) -> _Header:
    name, member = array
    with member.open(archive) as stream:
        version = npy.read_magic(stream)
        # Others are of arrays with fields, which hold no images.
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, column_major, dtype = read(stream)
        header = _Header(
            name=name,
            member=member,
            shape=shape,
            dtype=dtype,
            column_major=column_major,
            start=stream.tell(),
        )
    if dtype.hasobject or dtype.names:
        raise InputError(
            f"{name} in {archive!r} holds Python objects, which are not loaded, because they can"
            " run code; save images as uint8, and labels as numbers or text: np.asarray(y, str)"
        )
    if (
        min(shape, default=0) < 0
        or header.start + math.prod(shape) * dtype.itemsize != member.size_bytes
    ):
        raise InputError(
            f"{name} in {archive!r} is not as long as its shape {shape} says; download it again"
        )
    return header


def _check_images(header: _Header, archive: str) -> None:
    what = f"{header.name} in {archive!r}"
    if header.dtype != np.uint8:
        raise InputError(
            f"{what} holds {header.dtype}, and images are of uint8; save x.astype('uint8') of what"
            " lies in 0..255, x * 255 before of 0..1, and x // 257 of 0..65535"
        )
    n, *pixels = header.shape or (0,)
    if len(pixels) not in (2, 3) or pixels[2:] not in ([], [1], [3]) or not all(pixels):
        raise InputError(
            f"{what} has the shape {header.shape}, and images have (n, height, width), or 1 or 3"
            " channels after them; x.transpose(0, 2, 3, 1) moves channels to the end"
        )
    if header.column_major:
        raise InputError(
            f"{what} is stored column by column; save np.ascontiguousarray(x) in its place"
        )
    if n > _MAX_ROWS or math.prod(pixels) > MAX_FILE_BYTES:
        raise InputError(
            f"{what} has the shape {header.shape}, more than {_MAX_ROWS} images or"
            f" {MAX_FILE_BYTES} bytes in one; split it"
        )


def _read_labels(header: _Header, archive: str, *, n: int) -> list[str]:
    what = f"{header.name} in {archive!r}"
    if header.shape[:1] != (n,) or header.member.size_bytes > MAX_FILE_BYTES:
        raise InputError(f"{what} has the shape {header.shape}; it needs a label for {n} images")
    with header.member.open(archive) as stream:
        labels = npy.read_array(stream, allow_pickle=False).reshape(n, -1)
    if labels.dtype.kind not in "biufSU":
        raise InputError(f"{what} holds {labels.dtype}; labels are numbers or text")
    if labels.shape[1] == 1:
        return _to_text(labels[:, 0], what)
    # One-hot, or a column for each tag.
    if labels.dtype.kind in "SU" or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"{what} has the shape {header.shape}; it needs one label a row, or columns of 0 and 1"
        )
    return [";".join(map(str, np.flatnonzero(row))) or ";" for row in labels]


def _to_text(labels: NDArray[Any], what: str) -> list[str]:
    if labels.dtype.kind != "S":
        return list(labels.astype(str).tolist())
    try:
        return [label.decode("utf-8") for label in labels.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what} holds {error.object!r}, which is not in the encoding UTF-8; save text in its"
            " place: np.char.decode(y, 'latin1')"
        ) from error


def _make_table(rows: list[tuple[str, str]]) -> _Table:
    stream = io.StringIO(newline="")
    # Everything in quotes: before Python 3.13, csv leaves a lone carriage return without.
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("path", "label"), *rows])
    return _Table(stream.getvalue().encode("utf-8", "surrogateescape"))


def _inflate(member: ZipMember, archive: str) -> IO[bytes]:
    """Unpack a member into a temporary file that has no name."""
    folder = tempfile.gettempdir()
    if member.size_bytes > shutil.disk_usage(folder).free:
        raise OSError(
            errno.ENOSPC,
            f"{folder} has no room to unpack {member.size_bytes / 1e9:.1f} GB; set TMPDIR to"
            " another folder, or save the arrays uncompressed with np.savez",
        )
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever reads from it closes it
    for block in member.read_blocks(archive):
        file.write(block)
    file.flush()
    return file
