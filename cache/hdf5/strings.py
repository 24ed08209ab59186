"""Texts in HDF5 files, of fixed length so that HDF5 can checksum them; any text as a link name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

import h5py
import numpy as np

from permafrost.cache.hdf5.checksum import Checksum
from permafrost.cache.hdf5.sealed import check_seal, decode, seal

_STRINGS_PER_CHUNK = 4096
# Every text takes as much as the longest. Where that is more than this (captions, JSON), most bytes
# are zeros, and are compressed.
_WIDE_BYTES = 256
# A link in HDF5 cannot be empty or ".", nor hold a slash, a zero or what is no UTF-8.
_EMPTY_NAME = "%"
_UNSAFE = re.compile("[%/\0\udc80-\udcff]|^\\.$")


def write_strings(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    """Store texts as a checksummed dataset of fixed-length UTF-8.

    Undecodable bytes, as `os.fsdecode` gives them, are stored as they are.
    """
    width = max((max(map(len, raw)) for raw in _encode(texts)), default=0) or 1
    dataset = group.create_dataset(
        name,
        shape=(len(texts),),
        dtype=h5py.string_dtype("utf-8", width),
        chunks=(max(1, min(len(texts), _STRINGS_PER_CHUNK)),),
        fletcher32=True,
        compression="gzip" if width > _WIDE_BYTES else None,
    )
    start, total = 0, Checksum()
    for raw in _encode(texts):
        block = np.array(raw, f"S{width}").astype(dataset.dtype)
        dataset[start : start + len(block)] = block
        total.add(block)
        start += len(block)
    seal(dataset, total.value)


def _encode(texts: Sequence[str]) -> Iterator[list[bytes]]:
    """Yield the texts' bytes, those of a chunk at a time."""
    for start in range(0, len(texts), _STRINGS_PER_CHUNK):
        block = texts[start : start + _STRINGS_PER_CHUNK]
        # All at once takes a tenth of the time of one by one.
        raw = "\n".join(block).encode(errors="surrogateescape").split(b"\n")
        if len(raw) != len(block):  # one holds a line break
            raw = [text.encode(errors="surrogateescape") for text in block]
        yield raw


def read_strings(dataset: h5py.Dataset) -> list[str]:
    """Read what `write_strings` wrote.

    Raises
    ------
    OSError
        It is damaged.
    """
    texts: list[str] = []
    total = Checksum()
    for start in range(0, len(dataset), _STRINGS_PER_CHUNK):
        block = dataset[start : start + _STRINGS_PER_CHUNK]
        total.add(block)
        raw = block.tolist()
        found = b"\n".join(raw).decode(errors="surrogateescape").split("\n")
        if len(found) != len(raw):  # one holds a line break
            found = [*map(decode, raw)]
        # Labels and splits recur: one text serves all the rows of the block.
        once: dict[str, str] = {}
        texts += map(once.setdefault, found, found)
    check_seal(dataset, total.value)
    return texts


def escape_name(name: str) -> str:
    """Return the name of an HDF5 link for any text: what cannot stand there as ``%2F``."""
    return _UNSAFE.sub(_escape, name) or _EMPTY_NAME


def unescape_name(link: str) -> str:
    """Return the text that `escape_name` was given."""
    return "" if link == _EMPTY_NAME else unquote(link, errors="surrogateescape")


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogateescape"))
