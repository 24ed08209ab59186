"""Tar archives: where in the file each member's bytes lie."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from permafrost.stages.sources.members import Span, refuse_archive

# At byte 257 of every member's header since POSIX.1-1988.
TAR_MAGIC = b"ustar"
# What tarfile may read for one member: long names and attributes. It trusts the sizes it is told.
_HEADER_BYTES = 1 << 20


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
        offset = -1
        while member := tar.next():
            # Sizes can be negative, and lead back for ever.
            if member.size < 0 or tar.offset <= offset:
                raise tarfile.ReadError(f"a member of impossible size at byte {member.offset}")
            offset = tar.offset
            if member.islnk():
                yield member.name, files.get(member.linkname)
            elif member.isdir():
                yield f"{member.name}/", None
            else:
                plain = member.isreg() and not member.issparse()
                span = Span(member.offset_data, member.size) if plain else None
                if span:
                    files[member.name] = span
                yield member.name, span
            # tarfile remembers all members, at a kilobyte each.
            tar.members = []  # type: ignore[attr-defined]
            headers.budget_bytes = _HEADER_BYTES
        _check_end(headers, tar.offset)


def _check_end(headers: _Headers, offset: int) -> None:
    """Tell the end from a header that tarfile cannot read: it stops at both."""
    headers.seek(offset)
    if any(headers.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"no header at byte {offset}")
