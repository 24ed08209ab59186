"""Images in an archive, read in place: zip, tar, and the arrays of an npz."""

# As in stages/folder.py:
# ruff: noqa: PTH100, PTH109, PTH116, PTH118

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from permafrost.stages.errors import InputError
from permafrost.stages.sources.boxes import drop_box
from permafrost.stages.sources.folder import (
    Listing,
    check_size,
    is_visible,
    make_missing,
    sort_files,
    stat_regular,
)
from permafrost.stages.sources.members import Member, MemberError, index_members
from permafrost.stages.sources.npz import list_arrays
from permafrost.stages.sources.tar import TAR_MAGIC, list_tar
from permafrost.stages.sources.zip import list_zip
from permafrost.stamps import write_exact_stamp

# What is compressed as a whole has no members to go to: how it begins → what unpacks it in place.
_UNPACKERS: Mapping[bytes, str] = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd --rm",
    b"7z\xbc\xaf'\x1c": "7z x",
    b"Rar!": "unrar x",
}


# Kinds of archives: how the name ends, what is in the first 512 bytes, and what lists the members.
# Whatever is none of these is read as a zip.
_KINDS: tuple[
    tuple[str, bytes | None, Callable[[str], Iterable[tuple[str, Member | None]]]], ...
] = (
    (".npz", None, list_arrays),
    (".tar", TAR_MAGIC, list_tar),
)


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """The members of an archive.

    Parameters
    ----------
    root : str
        The archive. Its directory is read once per process, and again when the file changes.
    """

    root: str

    def list_images(self) -> list[str]:
        """List the images in the archive, sorted by their bytes."""
        return self.list_files().images

    def list_files(self) -> Listing:
        """List the files in the archive."""
        members, folders = _load(self.root)
        return sort_files(filter(is_visible, [*members, *(f"{folder}/" for folder in folders)]))

    def list_tables(self) -> list[str]:
        """List the CSV files in the archive, sorted by their bytes."""
        names = (name for name in load_members(self.root) if name.lower().endswith(".csv"))
        return sorted(filter(is_visible, names), key=os.fsencode)

    def read(self, path: str) -> bytes:
        """Return the member's bytes; `OSError` with the reason when it is damaged."""
        return b"".join(self.read_blocks(path))

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield the member's bytes, at most 1 MiB at a time."""
        member = load_members(self.root).get(drop_box(path))
        if member is None:
            raise make_missing(self._name(path))
        check_size(member.size_bytes, self._name(path))
        try:
            yield from member.read_blocks(self.root)
        except MemberError as error:
            raise OSError(errno.EIO, str(error), self._name(path)) from error

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return ``/absolute/archive.zip!member`` of each."""
        root = os.path.abspath(self.root)
        return [f"{root}!{path}" for path in paths]

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return the member's own fingerprint, then the archive's stamp."""
        members, archive = load_members(self.root), write_exact_stamp(os.stat(self.root))
        found = map(members.get, map(drop_box, paths))
        return [
            f"{member.fingerprint}:{archive}" if member else make_missing(self._name(path))
            for path, member in zip(paths, found, strict=True)
        ]

    def make_absolute(self) -> ArchiveSource:
        """Return the same archive by its absolute path."""
        return ArchiveSource(os.path.join(os.getcwd(), self.root))

    def _name(self, path: str) -> str:
        return self.file_keys([path])[0]


_parsing = threading.Lock()


def load_members(archive: str) -> Mapping[str, Member]:
    """Return the files in an archive by name.

    Raises
    ------
    OSError
        When it cannot be read or is no archive.
    InputError
        When it is an archive that must be unpacked or saved in another way first.
    """
    return _load(archive)[0]


def _load(archive: str) -> tuple[Mapping[str, Member], Sequence[str]]:
    """Return what `load_members` does, and the folders that have an entry of their own."""
    status = stat_regular(archive)
    version = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    # lru_cache alone would let each of many threads parse; with the lock the first does for all.
    with _parsing:
        return _load_members(os.path.join(os.getcwd(), archive), version)


@lru_cache(maxsize=4)
def _load_members(
    archive: str, _version: tuple[int, ...]
) -> tuple[Mapping[str, Member], Sequence[str]]:
    with Path(archive).open("rb") as stream:
        start = stream.read(512)
    for signature, unpacker in _UNPACKERS.items():
        if start.startswith(signature):
            raise InputError(
                f"{archive!r} is compressed as a whole, so its images cannot be read in place;"
                f" unpack it first: {unpacker} {archive!r}"
            )
    name = archive.lower()
    for suffix, magic, list_members in _KINDS:
        if name.endswith(suffix) or (magic and magic in start):
            return index_members(archive, list_members(archive))
    return index_members(archive, list_zip(archive))
