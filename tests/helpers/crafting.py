"""Archives crafted to fill the memory, to run for ever, or to reach out of their folder."""

from __future__ import annotations

import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.helpers.packing import pack_zip


def make_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar header that claims any size, as base-256 has it."""
    member = tarfile.TarInfo(name)
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    header[124] = 0o377 if size < 0 else 0o200
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


TARS: Mapping[str, bytes] = {
    "a size that leads back to itself": make_header("a.png", -1024) + bytes(1024),
    "a size far below zero": make_header("a.png", -(1 << 62)) + bytes(1024),
    "a size of exabytes": make_header("a.png", 1 << 62) + bytes(1024),
    "a size beyond 64 bits": make_header("a.png", 1 << 80) + bytes(1024),
    "a long name of -1 byte": make_header("x", -1, tarfile.GNUTYPE_LONGNAME) + bytes(4096),
    "a long name of a terabyte": make_header("x", 1 << 40, tarfile.GNUTYPE_LONGNAME) + bytes(4096),
    "attributes of a terabyte": make_header("x", 1 << 40, tarfile.XHDTYPE) + bytes(4096),
    "3,000 headers of headers": make_header("x", 0, tarfile.GNUTYPE_LONGNAME) * 3000,
    "no header at all": b"ustar" * 1024,
}


def declare(archive: Path, name: str, *, size: int, packed_size: int | None = None) -> None:
    """Let a zip's directory claim another size of a member."""
    content = bytearray(archive.read_bytes())
    at = content.rindex(name.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + 24 : at + 28] = struct.pack("<I", size)
    if packed_size is not None:
        content[at + 20 : at + 24] = struct.pack("<I", packed_size)
    archive.write_bytes(content)


def _unpack_to_more(archive: Path) -> None:
    pack_zip(archive, {"bomb.png": bytes(50_000_000), "1.png": b"1"})
    declare(archive, "bomb.png", size=100)


def _run_over(archive: Path) -> None:
    # As a quoted-overlap bomb: the first member's data run over all the others'.
    files = {f"{number}.png": bytes([number]) * 100 for number in range(3)}
    pack_zip(archive, files, method=zipfile.ZIP_STORED)
    reach = 3 * (30 + 5 + 100) - 35
    declare(archive, "0.png", size=reach, packed_size=reach)


def _claim_gigabytes(archive: Path) -> None:
    pack_zip(archive, {"big.png": b"1" * 1000})
    declare(archive, "big.png", size=4_000_000_000)


def _lead_out(archive: Path) -> None:
    pack_zip(archive, {"../../x.png": b"1", "C:/y.png": b"2"})


ZIPS: Mapping[str, Callable[[Path], None]] = {
    "unpacks to more than declared": _unpack_to_more,
    "runs over its neighbours": _run_over,
    "claims gigabytes": _claim_gigabytes,
    "leads out": _lead_out,
}
