"""What every kind of archive shares: which names its members get, and how they are read."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from permafrost.refusals import find_refusal
from permafrost.stages.sources.folder import BLOCK_BYTES

_log = logging.getLogger(__name__)

# A name may have 64 KB.
_NAME_SHOWN = 100
# C:/photo.jpg, C:photo.jpg: nothing that tar or zip would write elsewhere.
_DRIVE = re.compile(r"/*[A-Za-z]:")


class MemberError(Exception):
    """Why a member cannot be read; whoever knows the archive adds the name."""


class Member(Protocol):
    """One file in an archive."""

    @property
    def size_bytes(self) -> int:
        """Its size as the archive declares it."""

    @property
    def fingerprint(self) -> str:
        """A text that tells it from other members of the same archive, at no cost."""

    def read_blocks(self, archive: str) -> Iterator[bytes]:
        """Yield its bytes, no more than declared; `MemberError` or `OSError` with the reason."""


@dataclass(frozen=True, slots=True)
class Span:
    """A member whose bytes lie as they are in the archive's file."""

    start: int
    size_bytes: int

    @property
    def fingerprint(self) -> str:
        """Where it lies."""
        return f"{self.start}:{self.size_bytes}"

    def read_blocks(self, archive: str) -> Iterator[bytes]:
        """Yield the bytes from a file handle of their own."""
        left = self.size_bytes
        with Path(archive).open("rb", buffering=0) as stream:
            stream.seek(self.start)
            while left:
                block = stream.read(min(left, BLOCK_BYTES))
                if not block:
                    raise MemberError("the archive ends too early")
                left -= len(block)
                yield block


def index_members(
    archive: str, entries: Iterable[tuple[str, Member | None]]
) -> tuple[dict[str, Member], list[str]]:
    """Give members the names that they would get on being unpacked, safely.

    Leading slashes and ``./`` are dropped, as tar and unzip do; of two members of one name the
    last is kept, as it would overwrite the other. Names that lead out of the archive, and what is
    no plain file, are left out. Warns once of each of these. Where backslashes separate all names'
    parts, which some programs on Windows write, they become slashes.

    Parameters
    ----------
    archive : str
        How warnings call it.
    entries : iterable of (str, Member or None)
        The name as it is written, and the member; None for links, devices and the like, and for
        folders, whose names end in a slash.

    Returns
    -------
    members : dict of str to Member
    folders : list of str
        Those that have an entry of their own.
    """
    members: dict[str, Member] = {}
    folders, outside, special, twice = [], [], [], []
    for written, member in entries:
        name = clean_name(written)
        if member is None and written.endswith("/"):
            folders += [name] if name else []
        elif name is None:
            outside.append(written)
        elif member is None:
            special.append(written)
        else:
            if name in members:
                twice.append(written)
            members[name] = member
    _warn(archive, outside, "are left out, because their names lead out of the archive")
    _warn(archive, special, "are left out: links, devices or sparse files")
    _warn(archive, twice, "replace others of the same name, as they would when unpacked")
    names = [*members, *folders]
    if any("\\" in name for name in names) and not any("/" in name for name in names):
        entries = [*members.items(), *((f"{name}/", None) for name in folders)]
        return index_members(archive, [(name.replace("\\", "/"), it) for name, it in entries])
    return members, folders


def refuse_archive(archive: str, kind: str, error: Exception) -> OSError:
    """Make one line of whatever a library raised on an archive that it cannot read."""
    refusal = find_refusal(error, archive)
    if refusal is not None:
        return refusal
    said = " ".join(str(error).split())[:200] or type(error).__name__
    reason = f"no {kind} archive, or damaged ({said})"
    return OSError(errno.EIO, reason, archive)


def clean_name(written: str) -> str | None:
    """Return a member's POSIX path relative to the archive; None when it leads out of it."""
    parts = [part for part in written.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in written or _DRIVE.match(written):
        return None
    return "/".join(parts)


def _warn(archive: str, names: list[str], what: str) -> None:
    if names:
        _log.warning(
            "%r: %d members %s; the first is %r", archive, len(names), what, names[0][:_NAME_SHOWN]
        )
