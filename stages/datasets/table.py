"""CSV files with names of images: read with their column aliases, written without loss."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from permafrost.stages.datasets.formulas import neutralise, restore_paths, restore_texts
from permafrost.stages.errors import InputError

# What a column is for: the header names it may have, any case; the first in this order wins.
COLUMN_NAMES = {
    "path": (
        *("path", "filename", "file", "image", "file_name", "filepath", "file_path"),
        *("image_path", "image_name", "image_id", "id"),
    ),
    "label": ("label", "class", "target"),
    "split": ("split",),
    "digest": ("digest",),
    "root": ("root",),
}
# How the marks that such a file begins with come out of UTF-8.
_UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")
# Semicolons come from spreadsheets where the comma is in numbers.
_DELIMITERS = ",;\t"
# Bytes that are not UTF-8, as they come out of it.
_STRAY_BYTES = re.compile("[\udc80-\udcff]")
# Of a million rows at once the lists alone take 400 MB; of this many they stay in the cache.
_ROWS_PER_BLOCK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV file, by columns of equal length.

    Parameters
    ----------
    name : str
        How messages call it.
    known : dict of str to list of str
        The recognised columns, under the keys of `COLUMN_NAMES`.
    extra : dict of str to list of str
        All other columns under their own names, in order.
    headers : dict of str to str
        What each of the recognised columns is called, in lower case.
    """

    name: str
    known: dict[str, list[str]]
    extra: dict[str, list[str]]
    headers: dict[str, str] = field(default_factory=dict)

    def require(self, role: str) -> list[str]:
        """Return a recognised column; `InputError` when the file has none of its names."""
        if role not in self.known:
            names = " or ".join(COLUMN_NAMES[role])
            raise InputError(
                f"{self.name!r} has no column {names}; it has: {', '.join(self._headers())}"
            )
        return self.known[role]

    def _headers(self) -> list[str]:
        return [repr(name) for name in (*self.known, *self.extra)]

    def check_encoding(self) -> None:
        """Refuse a file that is not UTF-8: its labels would be garbled; `InputError`.

        Paths may hold any bytes, as files' names do; and so may all of what this project wrote,
        which has a digest and a root.
        """
        if {"digest", "root"} <= self.known.keys():
            return
        columns = {role: texts for role, texts in self.known.items() if role != "path"}
        for header, texts in {**columns, **self.extra}.items():
            if all(map(str.isascii, (header, *texts))):
                continue
            stray = next(filter(_STRAY_BYTES.search, (header, *texts)), None)
            if stray is not None:
                raise InputError(
                    f"{self.name!r} is not UTF-8: column {header!a} has {stray!a}"
                    f"{explain_bytes(stray)}, or convert it: iconv -f WINDOWS-1252 -t UTF-8"
                )


def explain_bytes(text: str) -> str:
    """Say what bytes that are not UTF-8 may mean, and what to do; "" where all are."""
    if not _STRAY_BYTES.search(text):
        return ""
    raw = text.encode("utf-8", "surrogateescape")
    meant = raw.decode("cp1252", "replace")
    return f", which in the encoding Windows-1252 is {meant!r}; save the table as UTF-8"


# Is given the texts of a column, some rows at a time; the table then holds "" in their place.
Take = Callable[[Sequence[str]], None]


def read_table(file: Path, *, take: Mapping[str, Take] | None = None) -> Table:
    """Read a CSV file.

    Parameters
    ----------
    file : Path
    take : mapping of str to Take, optional
        By the columns' names in lower case: those whose texts are not wanted all at once.

    Raises
    ------
    InputError
        When it cannot be read or is no well-formed CSV.
    """
    try:
        # utf-8-sig drops the mark that Excel puts first.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            table = parse_table(stream, name=str(file), take=take)
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}; check the path") from error
    except ValueError as error:  # A zero in the path.
        raise InputError(f"cannot read {str(file)!r}: {error}; check the path") from error
    table.check_encoding()
    return table


def parse_table(stream: TextIO, *, name: str, take: Mapping[str, Take] | None = None) -> Table:
    """Read CSV text opened with ``newline=""``; `InputError` when it is not well formed.

    Columns are separated by commas, or by semicolons or tabs where only these tell a column of
    paths from others. Rows without any text are left out.
    """
    first = stream.readline()
    # strict: an unclosed quote is an error instead of swallowing the rows after it.
    reader = csv.reader(
        chain([first] if first else [], stream), delimiter=_find_delimiter(first), strict=True
    )
    try:
        header = restore_texts([column.strip() for column in next(reader, [])])
        if header.count("") > 1:
            header = _drop_empty_end(header)
        _check_header(header, name=name)
        columns = _read_columns(reader, header, name=name, take=take or {})
    except csv.Error as error:
        raise InputError(
            f"{name!r} is no well-formed CSV: {error} (line {reader.line_num}); check its quotes"
        ) from error
    return _sort_columns(dict(zip(header, columns, strict=True)), name=name)


def _read_columns(
    rows: Iterator[list[str]], header: list[str], *, name: str, take: Mapping[str, Take]
) -> list[list[str]]:
    """Read rows into columns, some at a time."""
    columns: list[list[str]] = [[] for _ in header]
    folded = [column.casefold() for column in header]
    takers = {folded.index(column): taker for column, taker in take.items() if column in folded}
    while block := list(islice(rows, _ROWS_PER_BLOCK)):
        filled = _drop_empty(block, len(header))
        _check_lengths(filled, header, n_before=len(columns[0]), name=name)
        by_column = list(zip(*filled, strict=True))
        for number, taker in takers.items() if filled else ():
            taker(by_column[number])
            by_column[number] = ("",) * len(filled)
        for column, texts in zip(columns, by_column, strict=False):
            # Labels and splits recur: one text serves all the rows of the block.
            once = dict(zip(texts, texts, strict=True))
            column.extend(texts if len(once) == len(texts) else map(once.__getitem__, texts))
    return columns


def _find_delimiter(line: str) -> str:
    """Return what separates columns, given the line that names them."""
    for delimiter in _DELIMITERS:
        with suppress(csv.Error, StopIteration):
            names = next(csv.reader([line], delimiter=delimiter, strict=True))
            if any(name.strip().casefold() in COLUMN_NAMES["path"] for name in names):
                return delimiter
    return _DELIMITERS[0]


def _drop_empty_end(cells: list[str]) -> list[str]:
    n_filled = max((number for number, cell in enumerate(cells, start=1) if cell), default=0)
    return cells[:n_filled]


def _drop_empty(rows: list[list[str]], n_columns: int) -> list[list[str]]:
    """Drop empty rows, and empty cells behind the last column: a spreadsheet may write both."""
    # Of a million rows few are looked at one by one.
    if set(map(len, rows)) == {n_columns} and all(map(str.strip, next(zip(*rows, strict=True)))):
        return rows
    return [
        row if any(row[n_columns:]) else row[:n_columns] for row in rows if any(map(str.strip, row))
    ]


def write_table(columns: Mapping[str, Sequence[str]], file: Path) -> None:
    """Write columns of equal length with `write_csv`; a file that is there is overwritten."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        write_csv(stream, list(columns), list(columns.values()))


def write_csv(stream: TextIO, header: Sequence[str], columns: Sequence[Sequence[object]]) -> None:
    """Write CSV that is read back as it was, and in which a spreadsheet finds no formulas.

    Parameters
    ----------
    stream : text file
        Opened with ``newline=""``.
    header : sequence of str
    columns : sequence of sequence
        All of one length; a column ``path`` holds paths.
    """
    safe = [neutralise(cells, header=name) for name, cells in zip(header, columns, strict=True)]
    names = neutralise(header, header="")
    # Before Python 3.13 the csv module leaves a bare carriage return unquoted, and reads it back as
    # the end of a row.
    returns = any("\r" in cell for cell in chain(names, *safe) if isinstance(cell, str))
    writer = csv.writer(
        stream, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    )
    writer.writerow(names)
    writer.writerows(zip(*safe, strict=True))


def _check_header(header: list[str], *, name: str) -> None:
    if header and (header[0].startswith(_UTF16_MARKS) or "\0" in header[0]):
        raise InputError(f"{name!r} is in UTF-16; save it as UTF-8")
    if not header:
        raise InputError(f"{name!r} is empty; its first line must name the columns")
    twice = next((column for column, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{name!r} has two columns {twice!r}; rename one")


def _check_lengths(rows: list[list[str]], header: list[str], *, n_before: int, name: str) -> None:
    if set(map(len, rows)) <= {len(header)}:
        return
    bad = next(number for number, row in enumerate(rows) if len(row) != len(header))
    raise InputError(
        f"row {n_before + bad + 1} of {name!r} has {len(rows[bad])} fields instead of"
        f" {len(header)}; quote names that hold commas"
    )


def _sort_columns(columns: dict[str, list[str]], *, name: str) -> Table:
    by_case = {header.casefold(): header for header in reversed(columns)}
    chosen = {
        role: by_case[next(alias for alias in aliases if alias in by_case)]
        for role, aliases in COLUMN_NAMES.items()
        if any(alias in by_case for alias in aliases)
    }
    extra = {
        header: restore_texts(column)
        for header, column in columns.items()
        if header not in chosen.values()
    }
    known = {
        role: (restore_paths if role == "path" else restore_texts)(columns[header])
        for role, header in chosen.items()
    }
    headers = {role: header.casefold() for role, header in chosen.items()}
    return Table(name=name, known=known, extra=extra, headers=headers)
