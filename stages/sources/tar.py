"""Tar archives: where in the file each member's bytes lie."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator

from permafrost.stages.sources.members import Span, refuse_archive

_log = logging.getLogger(__name__)

# At byte 257 of every member's header since POSIX.1-1988.
TAR_MAGIC = b"ustar"
# What tarfile may read for one member: long names and attributes. It trusts the sizes it is told.
_HEADER_BYTES = 1 << 20
# Name, size, checksum, type, mark and prefix.
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_TYPE = 156
_TIMES = re.compile(rb"(?:[0-9]+ [amc]time=[0-9.]+\n)+")


class _Headers(io.FileIO):
    """The archive as tarfile sees it; between two members it gives so many bytes and no more."""

    budget_bytes = _HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self.budget_bytes:
            raise tarfile.ReadError("a member's header of impossible size")
        self.budget_bytes -= size
        return super().read(size) or b""


def list_tar(archive: str) -> Iterator[tuple[str, Span | None]]:
    """Yield the members as they are written; None for links, devices, sparse files and folders.

    Hard links are the file that they link to.

    Raises
    ------
    OSError
        When it is no tar archive, or is damaged or cut off.
    """
    try:
        yield from _walk(archive)
    # On garbage, tarfile raises anything from ValueError to RecursionError.
    except Exception as error:
        raise refuse_archive(archive, "tar", error) from error


def _walk(archive: str) -> Iterator[tuple[str, Span | None]]:
    files: dict[str, Span] = {}
    with (
        _Headers(archive) as headers,
        tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape") as tar,
    ):
        offset = 0
        while True:
            headers.budget_bytes = _HEADER_BYTES
            plain = _read_plain(headers.fileno(), offset)
            if plain:
                name, span = plain
                offset = span.start + _fill_block(span.size_bytes)
                files[name] = span
                yield name, span
                continue
            # It has seen the first already, and none of the plain ones.
            if offset:
                tar.firstmember, tar.offset = None, offset  # type: ignore[attr-defined]
            member = tar.next()
            if member is None:
                break
            # Sizes can be negative, and lead back for ever.
            if member.size < 0 or tar.offset <= offset:
                raise tarfile.ReadError(f"a member of impossible size at byte {member.offset}")
            offset = tar.offset
            yield _describe(member, files)
            # tarfile remembers all members, at a kilobyte each.
            tar.members = []  # type: ignore[attr-defined]
        headers.budget_bytes = _HEADER_BYTES
        _check_end(headers, tar.offset, archive)


def _describe(member: tarfile.TarInfo, files: dict[str, Span]) -> tuple[str, Span | None]:
    if member.islnk():
        return member.name, files.get(member.linkname)
    if member.isdir():
        return f"{member.name}/", None
    plain = member.isreg() and not member.issparse()
    span = Span(member.offset_data, member.size) if plain else None
    if span:
        files[member.name] = span
    return member.name, span


def _read_plain(descriptor: int, offset: int) -> tuple[str, Span] | None:
    """Read a member of the common kind, for which tarfile takes twenty times as long.

    That is a plain file whose name and size stand in its own header, perhaps behind an extended
    one that only tells times more exactly, as Python writes it. None for all others.
    """
    blocks = os.pread(descriptor, 3 * tarfile.BLOCKSIZE, offset)
    start = 0
    if blocks[_TYPE : _TYPE + 1] == b"x":
        head = _HEADER.unpack_from(blocks) if len(blocks) == 3 * tarfile.BLOCKSIZE else None
        size = _read_size(blocks, head)
        if size is None or size > tarfile.BLOCKSIZE or not _tells_times(blocks, size):
            return None
        start = 2 * tarfile.BLOCKSIZE
    header = blocks[start : start + tarfile.BLOCKSIZE]
    if len(header) < tarfile.BLOCKSIZE or header[_TYPE] not in b"0":
        return None
    head = _HEADER.unpack(header)
    size = _read_size(header, head)
    if size is None:
        return None
    name, prefix = (part.partition(b"\0")[0] for part in (head[0], head[5]))
    if not name or name.endswith(b"/") or (prefix and head[4] != b"ustar\0"):
        return None
    if prefix:
        name = prefix + b"/" + name
    written = name.decode("utf-8", "surrogateescape")
    return written, Span(offset + start + tarfile.BLOCKSIZE, size)


def _read_size(header: bytes, head: tuple[bytes, ...] | None) -> int | None:
    """Return what a header says of its size, in plain digits, if its checksum is right."""
    if head is None or head[4] not in (b"ustar\0", b"ustar "):
        return None
    sizes = head[1].rstrip(b"\0 "), head[2].rstrip(b"\0 ").lstrip(b" ")
    if not all(digits and not digits.strip(b"01234567") for digits in sizes):
        return None
    # The sum of all bytes, itself as blanks; so are, but for 1 more, the lower bits of Adler-32.
    total = zlib.adler32(header[:148] + b" " * 8 + header[156 : tarfile.BLOCKSIZE]) & 0xFFFF
    return int(sizes[0], 8) if total == (int(sizes[1], 8) + 1) % 65521 else None


def _tells_times(blocks: bytes, size: int) -> bool:
    """Whether an extended header holds nothing but times, a record a line."""
    records = blocks[tarfile.BLOCKSIZE : tarfile.BLOCKSIZE + size]
    return _TIMES.fullmatch(records) is not None


def _fill_block(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _check_end(headers: _Headers, offset: int, archive: str) -> None:
    """Tell the end from a header that tarfile cannot read, and from no end: it stops at all."""
    headers.seek(offset)
    block = headers.read(tarfile.BLOCKSIZE)
    if any(block):
        raise tarfile.ReadError(f"no header at byte {offset}")
    if not block:
        _log.warning(
            "%r has no mark of its end behind its last member: if it was cut off there, download it"
            " again",
            archive,
        )
