"""CSV files with names of images: read with their column aliases, written without loss."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from permafrost.stages.datasets.formulas import neutralise, restore_paths, restore_texts
from permafrost.stages.datasets.texts import Texts
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
    "box": ("box",),
}
# How the marks that such a file begins with come out of UTF-8.
_UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")
# Semicolons come from spreadsheets where the comma is in numbers.
_DELIMITERS = ",;\t"
# Bytes that are not UTF-8, as they come out of it.
_STRAY_BYTES = re.compile("[\udc80-\udcff]")
# Of a million rows at once the lists alone take 400 MB; of this many they stay in the cache.
_ROWS_PER_BLOCK = 500
_CHARACTERS_PER_BLOCK = 65_536
# Of a column, texts that are kept once: there are fewer labels than this, but not fewer captions.
_MOST_SHARED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV file, by columns of equal length.

    Parameters
    ----------
    name : str
        How messages call it.
    known : dict of str to sequence of str
        The recognised columns, under the keys of `COLUMN_NAMES`; paths are `Texts`.
    extra : dict of str to list of str
        All other columns under their own names, in order.
    headers : dict of str to str
        What each of the recognised columns is called, in lower case.
    """

    name: str
    known: dict[str, Sequence[str]]
    extra: dict[str, list[str]]
    headers: dict[str, str] = field(default_factory=dict)

    def require(self, role: str) -> Sequence[str]:
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
        if {"digest", "root"} <= self.headers.keys():
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


# Is given the texts of a column, some rows at a time; the table then is without it.
Take = Callable[[Sequence[str]], None]


def read_table(file: Path, *, take: Mapping[str, Take] | None = None) -> Table:
    """Read a CSV file.

    Parameters
    ----------
    file : Path
        One in a zip archive is named as if that were a folder: ``digits.zip/train.csv``.
    take : mapping of str to Take, optional
        The recognised columns whose texts are not wanted all at once.

    Raises
    ------
    InputError
        When it cannot be read or is no well-formed CSV.
    """
    try:
        # utf-8-sig drops the mark that Excel puts first.
        with _find(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            table = parse_table(stream, name=str(file), take=take)
    except OSError as error:
        reason = error.strerror or "there is no such file in the archive"
        raise InputError(f"cannot read {str(file)!r}: {reason}; check the path") from error
    except (ValueError, zipfile.BadZipFile) as error:  # A zero in the path.
        raise InputError(f"cannot read {str(file)!r}: {error}; check the path") from error
    table.check_encoding()
    return table


def _find(file: Path) -> Path | zipfile.Path:
    """Return the file, which may lie in an archive."""
    for archive in file.parents:
        if archive.suffix.lower() == ".zip" and archive.is_file():
            return zipfile.Path(archive, file.relative_to(archive).as_posix())
    return file


def parse_table(stream: TextIO, *, name: str, take: Mapping[str, Take] | None = None) -> Table:
    """Read CSV text opened with ``newline=""``; `InputError` when it is not well formed.

    Columns are separated by commas, or by semicolons or tabs where only these tell a column of
    paths from others. Rows without any text are left out.
    """
    rows = _Rows(stream, name=name)
    header = restore_texts([column.strip() for column in next(iter(rows.parse(1)), [])])
    if header.count("") > 1:
        header = _drop_empty_end(header)
    _check_header(header, name=name)
    roles = _choose_columns(header)
    paths: list[Texts] = []
    taken: dict[str, Take] = {"path": lambda texts: paths.append(Texts.of(restore_paths(texts)))}
    taken |= take or {}
    takers = {roles[role]: taker for role, taker in taken.items() if role in roles}
    columns = _read_columns(rows, header, takers)
    known: dict[str, Sequence[str]] = {"path": Texts.join(paths)} if "path" in roles else {}
    for role, column in roles.items():
        if role not in taken:
            known[role] = restore_texts(columns.pop(column))
    extra = {column: restore_texts(texts) for column, texts in columns.items()}
    headers = {role: header.casefold() for role, header in roles.items()}
    return Table(name=name, known=known, extra=extra, headers=headers)


def _read_columns(
    rows: _Rows, header: list[str], takers: Mapping[str, Take]
) -> dict[str, list[str]]:
    """Read the columns that nobody takes some rows at a time."""
    columns: dict[str, list[str]] = {name: [] for name in header if name not in takers}
    shared: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for block in rows.read_blocks(len(header)):
        for name, texts in zip(header, block, strict=True):
            if name in takers:
                takers[name](texts)
                continue
            # Labels and splits recur: one text serves all of their rows.
            columns[name].extend(map(shared[name].setdefault, texts, texts))
            if len(shared[name]) > _MOST_SHARED:
                shared[name].clear()
    return columns


class _Rows:
    """The rows of CSV text, of which those that hold no quotes are split many at a time.

    Parameters
    ----------
    stream : text file
        Opened with ``newline=""``.
    name : str
        How messages call it.
    """

    def __init__(self, stream: TextIO, *, name: str) -> None:
        self._stream = stream
        self._name = name
        first = stream.readline()
        self._delimiter = _find_delimiter(first)
        self._ahead = io.StringIO(first, newline="")
        self._n_lines = 0
        lines = iter(lambda: self._ahead.readline() or stream.readline(), "")
        # strict: an unclosed quote is an error instead of swallowing the rows after it.
        self._parser = csv.reader(lines, delimiter=self._delimiter, strict=True)

    def parse(self, n_rows: int) -> list[list[str]]:
        """Return the next rows; none at the end."""
        try:
            return list(islice(self._parser, n_rows))
        except csv.Error as error:
            line = self._n_lines + self._parser.line_num
            raise InputError(
                f"{self._name!r} is no well-formed CSV: {error} (line {line}); check its quotes"
            ) from error

    def read_blocks(self, n_columns: int) -> Iterator[Sequence[Sequence[str]]]:
        """Yield the columns of the rows that are left, some rows at a time."""
        n_rows = 0
        while text := self._stream.read(_CHARACTERS_PER_BLOCK):
            text += self._stream.readline()
            columns = _split_plain(text, self._delimiter, n_columns)
            if not columns:
                self._ahead = io.StringIO(text, newline="")
                break
            yield columns
            self._n_lines += len(columns[0])
            n_rows += len(columns[0])
        while rows := self.parse(_ROWS_PER_BLOCK):
            filled = _drop_empty(rows, n_columns)
            _check_lengths(filled, n_columns, n_before=n_rows, name=self._name)
            if filled:
                yield list(zip(*filled, strict=True))
            n_rows += len(filled)


def _split_plain(text: str, delimiter: str, n_columns: int) -> list[list[str]]:
    """Split rows into columns; none where a row is quoted, begins with nothing, or is of others."""
    if '"' in text or "\r" in text:
        return []
    text = text.removesuffix("\n")
    n_rows = text.count("\n") + 1
    # The line break, as a cell of its own, has to be the last of each row.
    cells = f"{text}\n".replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)[:-1]
    columns = [cells[number :: n_columns + 1] for number in range(n_columns + 1)]
    is_plain = len(cells) == n_rows * (n_columns + 1) and columns.pop().count("\n") == n_rows
    return columns if is_plain and all(map(str.strip, columns[0])) else []


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


def _check_lengths(rows: list[list[str]], n_columns: int, *, n_before: int, name: str) -> None:
    if set(map(len, rows)) <= {n_columns}:
        return
    bad = next(number for number, row in enumerate(rows) if len(row) != n_columns)
    raise InputError(
        f"row {n_before + bad + 1} of {name!r} has {len(rows[bad])} fields instead of"
        f" {n_columns}; quote names that hold commas"
    )


def _choose_columns(header: Sequence[str]) -> dict[str, str]:
    """Return what each of the recognised columns is called."""
    by_case = {name.casefold(): name for name in reversed(header)}
    return {
        role: by_case[next(alias for alias in aliases if alias in by_case)]
        for role, aliases in COLUMN_NAMES.items()
        if any(alias in by_case for alias in aliases)
    }
