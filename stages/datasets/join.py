"""Finds the row of a table that speaks of an image, and takes label and split from it."""

from __future__ import annotations

import dataclasses
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

from permafrost.stages.datasets.manifest import SPLIT_NAMES, Manifest, normalise_splits
from permafrost.stages.datasets.table import Table, parse_table
from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource
from permafrost.stages.sources.folder import IMAGE_SUFFIXES


def join_table(manifest: Manifest, table: Table) -> Manifest:
    """Take labels, splits and further columns from a table.

    An image's row is the one with its path, or else with its base name, or else with its stem,
    as long as no other row and no other image has the same. Images without a row get no label and
    keep their split; rows without an image are left out. A table without labels leaves those that
    there are.

    Raises
    ------
    InputError
        When no row names an image.
    """
    names = table.require("path")
    rows = _match_rows(names, manifest.paths)
    if max(rows, default=0) < 0:
        raise InputError(
            f"no row of {table.name!r} names one of the {len(manifest)} images (the first is"
            f" {manifest.paths[0]!r}); correct its paths, base names or stems"
        )
    labels = table.known.get("label")
    found = _pick(table.known.get("split", [""] * len(names)), rows)
    return dataclasses.replace(
        manifest,
        labels=manifest.labels if labels is None else _pick(labels, rows),
        splits=[
            split or kept
            for split, kept in zip(normalise_splits(found), manifest.splits, strict=True)
        ],
        extra=manifest.extra | {name: _pick(column, rows) for name, column in table.extra.items()},
    )


def join_archive_tables(manifest: Manifest, source: ArchiveSource) -> Manifest:
    """Join the CSV files in an archive, if they name images and tell label or split.

    A row's split is its own or else what the CSV's name says (``train.csv``, ``mnist_test.csv``).

    Raises
    ------
    InputError
        When such a CSV names a file that is not in the archive, or could be several.
    """
    tables = [_place(table) for table in _read_archive_tables(source) if _is_useful(table)]
    if not tables:
        return manifest
    table = _concatenate(tables)
    names = table.known["path"]
    unmatched = set(range(len(names))).difference(_match_rows(names, manifest.paths))
    if unmatched:
        raise InputError(
            f"{len(unmatched)} of the {len(names)} rows of {table.name} in {source.root!r} name no "
            f"image there, or several; the first is {names[min(unmatched)]!r}; correct the CSV or "
            "unpack the archive"
        )
    return join_table(manifest, table)


def _pick(column: Sequence[str], rows: Iterable[int]) -> list[str]:
    return ["" if row < 0 else column[row] for row in rows]


def _match_rows(names: Sequence[str], paths: Sequence[str]) -> list[int]:
    """Find, for each path, the index of the name that means it; -1 for none."""
    rows = [-1] * len(paths)
    for form in (posixpath.normpath, posixpath.basename, _stem):
        row_of = _index_unique(map(form, names))
        for key, image in _index_unique(map(form, paths)).items():
            if rows[image] < 0:
                rows[image] = row_of.get(key, -1)
    return rows


def _index_unique(keys: Iterable[str]) -> dict[str, int]:
    """Map keys to their positions, without those that occur twice."""
    index: dict[str, int] = {}
    twice = set()
    for position, key in enumerate(keys):
        if index.setdefault(key, position) != position:
            twice.add(key)
    return {key: position for key, position in index.items() if key not in twice}


def _stem(path: str) -> str:
    """Return the base name without an image suffix; any other dot is part of the name."""
    name = posixpath.basename(path)
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _read_archive_tables(source: ArchiveSource) -> Iterator[Table]:
    for name in source.list_tables():
        try:
            content = io.BytesIO(source.read(name))
        except OSError as error:
            raise InputError(
                f"cannot read {name!r} in {source.root!r}: {error.strerror}; download it again"
            ) from error
        stream = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline="")
        yield parse_table(stream, name=name)


def _is_useful(table: Table) -> bool:
    says_something = table.known.keys() & {"label", "split"} or _name_split(table.name)
    return bool(table.known.get("path") and says_something)


def _place(table: Table) -> Table:
    """Make paths relative to the archive instead of the CSV, and fill in the implied split."""
    folder, implied = posixpath.dirname(table.name), _name_split(table.name)
    paths = table.known["path"]
    splits = table.known.get("split", [""] * len(paths))
    placed = {
        "path": [posixpath.join(folder, path) for path in paths],
        "split": [split or implied for split in splits],
    }
    return dataclasses.replace(table, known=table.known | placed)


def _name_split(name: str) -> str:
    """Return the split that a CSV's name tells, "" for none or several."""
    words = re.split(r"[^a-z]+", posixpath.basename(name).lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else ""


def _concatenate(tables: Sequence[Table]) -> Table:
    """Stack tables; a column that one of them lacks is empty in its rows."""

    def stack(columns: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
        names = dict.fromkeys(name for each in columns for name in each)
        return {
            name: [
                field
                for each, table in zip(columns, tables, strict=True)
                for field in each.get(name, [""] * len(table.known["path"]))
            ]
            for name in names
        }

    return Table(
        name=" and ".join(table.name for table in tables),
        known=stack([table.known for table in tables]),
        extra=stack([table.extra for table in tables]),
    )
