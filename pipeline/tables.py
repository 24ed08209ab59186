"""The CSV files that commands leave: whole or not at all, and read back as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.files import published
from stages.table import make_writer


def write_rows(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file in one step.

    Parameters
    ----------
    file : Path
    header : sequence of str
    rows : sequence of sequence
        Undecodable bytes of a file name as `os.fsdecode` gives them.
    """
    texts = (cell for row in (header, *rows) for cell in row if isinstance(cell, str))
    with (
        published(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = make_writer(stream, texts)
        writer.writerow(header)
        writer.writerows(rows)
