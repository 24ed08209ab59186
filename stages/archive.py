"""Images in a zip archive, read in place."""

# As in stages/folder.py:
# ruff: noqa: PTH100, PTH116

from __future__ import annotations

import errno
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from stages.folder import BLOCK_BYTES, IMAGE_SUFFIXES, is_hidden, stat_regular


@dataclass(frozen=True, slots=True)
class ZipSource:
    """The members of a zip archive.

    Parameters
    ----------
    root : str
        The archive. Its directory is parsed once per process, and again when the file changes.
    """

    root: str

    def list_images(self) -> list[str]:
        """List the images in the archive, sorted by their bytes."""
        return self._list_files(IMAGE_SUFFIXES)

    def list_tables(self) -> list[str]:
        """List the CSV files in the archive, sorted by their bytes."""
        return self._list_files((".csv",))

    def read(self, path: str) -> bytes:
        """Return the member's bytes; `OSError` with the reason when it is damaged."""
        return b"".join(self.read_blocks(path))

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield the member's bytes, at most 1 MiB at a time."""
        member = self._find(path)
        try:
            with _open_member(self.root, member) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
            reason = f"cannot be unpacked: {str(error) or 'its data end too early'}"
            (name,) = self.file_keys([path])
            raise OSError(errno.EIO, reason, name) from error

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return ``/absolute/archive.zip!member`` of each."""
        root = os.path.abspath(self.root)
        return [f"{root}!{path}" for path in paths]

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return ``crc:size`` of each member, then ``size:mtime_ns`` of the archive."""
        members, status = load_members(self.root), os.stat(self.root)
        archive = f"{status.st_size}:{status.st_mtime_ns}"
        found = map(members.get, paths)
        return [
            f"{member.CRC}:{member.file_size}:{archive}" if member else self._no_member(path)
            for path, member in zip(paths, found, strict=True)
        ]

    def _list_files(self, suffixes: tuple[str, ...]) -> list[str]:
        names = (name for name in load_members(self.root) if name.lower().endswith(suffixes))
        return sorted(
            (name for name in names if not any(map(is_hidden, name.split("/")))), key=os.fsencode
        )

    def _find(self, path: str) -> zipfile.ZipInfo:
        member = load_members(self.root).get(path)
        if member is None:
            raise self._no_member(path)
        return member

    def _no_member(self, path: str) -> OSError:
        (name,) = self.file_keys([path])
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


_parsing = threading.Lock()


def load_members(archive: str) -> dict[str, zipfile.ZipInfo]:
    """Return the files in an archive by name; `OSError` when it cannot be read or is no zip."""
    status = stat_regular(archive)
    # lru_cache alone would let each of many threads parse; with the lock the first does for all.
    with _parsing:
        return _parse_members(os.path.abspath(archive), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _parse_members(archive: str, _size_bytes: int, _mtime_ns: int) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise OSError(errno.EIO, f"no zip archive, or damaged ({error})", archive) from error
    return {_name_member(member): member for member in members}


def _name_member(member: zipfile.ZipInfo) -> str:
    """Undo two common faults: backslashes (.NET) and UTF-8 that is not declared (macOS)."""
    name = member.filename.replace("\\", "/") if member.create_system == 0 else member.filename
    if member.flag_bits & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _open_member(archive: str, member: zipfile.ZipInfo) -> zipfile.ZipExtFile:
    """Open a member on a file handle of its own: threads then share neither lock nor offset."""
    if member.flag_bits & 0x1:
        raise zipfile.BadZipFile("it is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"unsupported compression method {member.compress_type}")
    stream = Path(archive).open("rb")  # noqa: SIM115 - the member's stream closes it
    try:
        _seek_data(stream, member)
        return zipfile.ZipExtFile(stream, "r", member, None, True)  # noqa: FBT003
    except BaseException:
        stream.close()
        raise


def _seek_data(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Skip the member's own header, whose length the archive's directory does not tell."""
    stream.seek(member.header_offset)
    signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", stream.read(30))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no file header where the directory says")
    stream.seek(name_bytes + extra_bytes, os.SEEK_CUR)
