"""What a view was made of, as a digest: whether it would come out as it is, without making it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from permafrost.cache.hdf5.checksum import Checksum

# Some texts are joined at a time: captions of a million rows need not be held twice.
_TEXTS_PER_BLOCK = 4096
_BYTES_PER_BLOCK = 1 << 20


def digest_parts(parts: Iterable[object]) -> str:
    """Return the SHA-256 of texts, arrays, sequences of texts, and what JSON can hold."""
    total = hashlib.sha256()
    for part in parts:
        for raw in _encode(part):
            total.update(b"%d:" % memoryview(raw).nbytes)
            total.update(raw)
    return total.hexdigest()


def _encode(part: object) -> Iterator[bytes | memoryview]:
    if isinstance(part, np.ndarray):
        yield f"{part.dtype.str} {part.shape}".encode()
        yield np.ascontiguousarray(part).data
    elif isinstance(part, Sequence) and not isinstance(part, str | tuple):
        yield b"%d" % len(part)
        for start in range(0, len(part), _TEXTS_PER_BLOCK):
            yield from _encode_texts(part[start : start + _TEXTS_PER_BLOCK])
    else:
        yield json.dumps(part).encode()


def _encode_texts(texts: Sequence[str]) -> Iterator[bytes | memoryview]:
    yield np.fromiter(map(len, texts), np.int64).data
    yield "".join(texts).encode(errors="surrogatepass")


def sum_file(path: Path) -> str:
    """Return the checksum of a file's bytes; that of none where it cannot be read."""
    total, block = Checksum(), np.empty(_BYTES_PER_BLOCK, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            while n_bytes := file.readinto(block.data):
                total.add(block[:n_bytes])
    except OSError:
        return ""
    return f"{total.value:016x}"
