"""WebDataset's tars: beside an image ``key.jpg`` lie ``key.cls``, ``key.json`` and ``key.txt``.

https://github.com/webdataset/webdataset tells the format: files of one name up to its first dot
are one sample.
"""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.sources.folder import IMAGE_SUFFIXES, is_visible
from permafrost.stages.sources.members import Member, Span, index_members
from permafrost.stages.sources.sharded.shard import Columns
from permafrost.stages.sources.tar import list_tar

_log = logging.getLogger(__name__)

# What lies beside an image, and is at most so large.
_COMPANIONS = ("cls", "json", "txt")
_COMPANION_BYTES = 1 << 20
_MOST_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class TarShard:
    """The images of a tar with what lies beside them.

    Parameters
    ----------
    file : str
    names : ndarray of bytes, shape (n,)
        Of the images, sorted.
    spans : ndarray of int64, shape (n, 4, 2)
        Where the image and each of its companions begins and how long it is; -1 where it has none.
    """

    file: str
    names: NDArray[np.bytes_]
    spans: NDArray[np.int64]

    def list_names(self) -> list[str]:
        """List the images' names, sorted by their bytes."""
        return [*map(os.fsdecode, self.names.tolist())]

    def find(self, name: str) -> int | None:
        """Return the row of an image; None where there is none."""
        wanted = os.fsencode(name)
        row = bisect_left(self.names, wanted)
        return row if row < len(self.names) and self.names[row] == wanted else None

    def fingerprint(self, row: int) -> str:
        """Return where the image lies."""
        return self._span(row, 0).fingerprint

    def read_blocks(self, row: int) -> Iterator[bytes]:
        """Yield the image's bytes from a file handle of their own."""
        return self._span(row, 0).read_blocks(self.file)

    def read_columns(self) -> Columns:
        """Read the companions: ``cls``, ``txt``, and each field of the JSON that is no structure.

        Nothing where no image has a ``cls`` or ``json``: then what else lies there is no sample's.
        """
        has_class, has_json = (bool((self.spans[:, kind, 0] >= 0).any()) for kind in (1, 2))
        if not (has_class or has_json):
            return Columns()
        table = _Table(len(self.names))
        with open(self.file, "rb", buffering=0) as stream:  # noqa: PTH123
            for row, spans in enumerate(self.spans[:, 1:].tolist()):
                for kind, (start, size) in zip(_COMPANIONS, spans, strict=True):
                    if start >= 0 and size <= _COMPANION_BYTES:
                        content = os.pread(stream.fileno(), size, start)
                        table.add(row, kind, content)
        table.warn(self.file)
        return Columns(texts=table.columns, label="cls" if has_class else "")

    def _span(self, row: int, which: int) -> Span:
        start, size = self.spans[row, which].tolist()
        return Span(start, size)


class _Table:
    """Texts of rows, a column for each name that any row has."""

    def __init__(self, n_rows: int) -> None:
        self.columns: dict[str, list[str]] = {}
        self._n_rows = n_rows
        self._shared: dict[str, str] = {}
        self._unread: list[int] = []
        self._left_out: set[str] = set()

    def add(self, row: int, kind: str, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        if kind != "json":
            self._put(row, kind, text.strip())
            return
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            self._unread.append(row)
            return
        for name, value in told.items():
            if value is not None and not isinstance(value, dict | list):
                self._put(row, name, _write(value))

    def _put(self, row: int, name: str, text: str) -> None:
        if name not in self.columns:
            if len(self.columns) == _MOST_COLUMNS:
                self._left_out.add(name)
                return
            self.columns[name] = [""] * self._n_rows
        # Labels recur: one text serves all of their rows.
        self.columns[name][row] = self._shared.setdefault(text, text)
        if len(self._shared) > 10_000:
            self._shared.clear()

    def warn(self, file: str) -> None:
        if self._unread:
            _log.warning("%r: the JSON of %d images cannot be read", file, len(self._unread))
        if self._left_out:
            _log.warning("%r: more than %d fields; the others are left out", file, _MOST_COLUMNS)


def open_tar(file: str) -> TarShard:
    """Find the images in a tar, and what lies beside each.

    Raises
    ------
    OSError
        When it is no tar archive, or is damaged or cut off.
    """
    return collect_samples(file, index_members(file, list_tar(file))[0])


def collect_samples(file: str, members: Mapping[str, Member]) -> TarShard:
    """Find the images among the members of a tar, and what lies beside each."""
    images = sorted(
        (name for name in members if name.lower().endswith(IMAGE_SUFFIXES) and is_visible(name)),
        key=os.fsencode,
    )
    spans = np.full((len(images), 1 + len(_COMPANIONS), 2), -1, np.int64)
    for row, name in enumerate(images):
        spans[row] = [
            _place(members.get(each)) for each in (name, *_name_companions(name, members))
        ]
    return TarShard(file, np.array([*map(os.fsencode, images)], np.bytes_), spans)


def _name_companions(image: str, members: Mapping[str, Any]) -> Sequence[str]:
    """Name what may lie beside an image: of one stem, or of one name up to its first dot."""
    folder, slash, name = image.rpartition("/")
    stem, key = (f"{folder}{slash}{part}" for part in (name.rpartition(".")[0], name.split(".")[0]))
    return [
        each if (each := f"{stem}.{kind}") in members else f"{key}.{kind}" for kind in _COMPANIONS
    ]


def _place(member: Member | None) -> tuple[int, int]:
    return (member.start, member.size_bytes) if isinstance(member, Span) else (-1, -1)


def _write(value: str | float) -> str:
    if value != value:  # noqa: PLR0124 - NaN says as little as null
        return ""
    return value if isinstance(value, str) else json.dumps(value)
