"""Zip archives: their members, each unpacked from a file handle of its own."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from permafrost.stages.sources.folder import BLOCK_BYTES
from permafrost.stages.sources.members import MemberError, refuse_archive

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error)
_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A stored or deflated member.

    Parameters
    ----------
    info : zipfile.ZipInfo
    overlaps : bool
        Whether its data run into the next member's: so a small file pretends to hold a lot.
    """

    info: zipfile.ZipInfo
    overlaps: bool

    @property
    def size_bytes(self) -> int:
        """Its size when unpacked."""
        return self.info.file_size

    @property
    def fingerprint(self) -> str:
        """``crc:size``."""
        return f"{self.info.CRC}:{self.info.file_size}"

    def read_blocks(self, archive: str) -> Iterator[bytes]:
        """Unpack it block by block; `MemberError` when its checksum is another than declared."""
        try:
            with self.open(archive) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        # The last two: places in the file that no file can have.
        except (*_DAMAGE, OverflowError, ValueError) as error:
            reason = str(error) or "its data end too early"
            raise MemberError(f"cannot be unpacked: {reason}") from error

    @property
    def is_stored(self) -> bool:
        """Whether its bytes lie in the archive as they are."""
        return self.info.compress_type == zipfile.ZIP_STORED

    def find_data(self, archive: str) -> int:
        """Return where in the archive its packed bytes begin."""
        with self._open_data(archive) as stream:
            return stream.tell()

    def open(self, archive: str) -> zipfile.ZipExtFile:
        """Open it on a file handle of its own: threads then share neither lock nor offset.

        What is wrong with it is raised as zipfile and the system raise it.
        """
        stream = self._open_data(archive)
        return zipfile.ZipExtFile(stream, "r", self.info, None, True)  # noqa: FBT003

    def _open_data(self, archive: str) -> IO[bytes]:
        if self.info.flag_bits & 0x1:
            raise zipfile.BadZipFile("it is encrypted")
        if self.info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = self.info.compress_type
            raise zipfile.BadZipFile(f"unsupported compression method {method}")
        if self.overlaps:
            raise zipfile.BadZipFile("its data overlap another member's")
        stream = Path(archive).open("rb")  # noqa: SIM115 - the member's stream closes it
        try:
            _seek_data(stream, self.info)
        except BaseException:
            stream.close()
            raise
        return stream


def list_zip(archive: str) -> Iterator[tuple[str, ZipMember | None]]:
    """Yield the members as they are written; None for symbolic links and folders.

    Raises
    ------
    OSError
        When it is no zip archive, or its directory is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            infos, stop = opened.infolist(), opened.start_dir
    # On garbage, zipfile raises anything from UnicodeDecodeError to struct.error.
    except Exception as error:
        raise refuse_archive(archive, "zip", error) from error
    overlapping = _find_overlaps(infos, stop)
    for info in infos:
        name = _name_member(info)
        if name.endswith("/"):
            yield name, None
        else:
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            member = None if is_link else ZipMember(info, info.header_offset in overlapping)
            yield name, member


def _find_overlaps(infos: list[zipfile.ZipInfo], stop: int) -> set[int]:
    """Find the members that end behind the beginning of the next; where they begin."""
    overlapping = set()
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        # The least that it takes: its own header may be longer than the directory tells.
        if info.header_offset + _HEADER.size + info.compress_size > stop:
            overlapping.add(info.header_offset)
        stop = min(stop, info.header_offset)
    return overlapping


def _name_member(member: zipfile.ZipInfo) -> str:
    """Undo two common faults: backslashes (.NET) and UTF-8 that is not declared (macOS)."""
    # zipfile's own name ends at a NUL, which would make an innocent one of a crafted one.
    name = member.orig_filename
    if member.create_system == 0:
        name = name.replace("\\", "/")
    if member.flag_bits & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _seek_data(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Skip the member's own header, whose length the archive's directory does not tell."""
    stream.seek(member.header_offset)
    signature, name_bytes, extra_bytes = _HEADER.unpack(stream.read(_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no file header where the directory says")
    stream.seek(name_bytes + extra_bytes, os.SEEK_CUR)
