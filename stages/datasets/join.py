"""Finds the row of a table that speaks of an image, and takes label and split from it."""

from __future__ import annotations

import dataclasses
import io
import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from permafrost.stages.datasets.annotations.boxes import keep_images_together, place_boxes
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import SPLIT_NAMES, name_split, normalise_splits
from permafrost.stages.datasets.table import Table, explain_bytes, parse_table
from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource
from permafrost.stages.sources.names import compose, drop_suffix

_log = logging.getLogger(__name__)

# Headers that say of what a column is only together with others: tables of anything have an id.
_VAGUE_HEADERS = ("id", "image_id")


def join_table(
    manifest: Manifest, table: Table, *, split_names: Mapping[str, str] | None = None
) -> Manifest:
    """Take labels, splits and further columns from a table.

    An image's row is the one with its path, or else with its base name, or else with its stem,
    as long as no other row and no other image has the same; backslashes count as slashes, and how
    letters are composed does not matter. Rows of one path are one row: where they disagree, the
    column says nothing of the image. Images without a row get no label and keep their split; rows
    without an image are left out, and warned of. A table without labels leaves those that there
    are. With a column ``box``, each row of the table is a row of the dataset.

    Raises
    ------
    InputError
        When no row names an image.
    """
    if any(table.known.get("box", ())):
        return _join_boxes(manifest, table, split_names)
    table, disagreeing = _merge_rows(table)
    _warn_of_disagreement(table, disagreeing)
    names = table.require("path")
    rows = _match_rows(names, manifest.paths)
    _check_any(rows, table, manifest)
    _warn_of_unmatched(table, set(range(len(names))).difference(rows))
    labels = table.known.get("label")
    found = _pick(table.known.get("split", [""] * len(names)), rows)
    return dataclasses.replace(
        manifest,
        labels=manifest.labels if labels is None else _pick(labels, rows),
        splits=[
            split or kept
            for split, kept in zip(
                normalise_splits(found, split_names), manifest.splits, strict=True
            )
        ],
        extra=manifest.extra | {name: _pick(column, rows) for name, column in table.extra.items()},
    )


def _join_boxes(
    manifest: Manifest, table: Table, split_names: Mapping[str, str] | None
) -> Manifest:
    """Make a row of each box; images without any have none."""
    names = table.require("path")
    different = [*dict.fromkeys(names)]
    matched = _match_rows(different, manifest.paths)
    _check_any(matched, table, manifest)
    image_of = {different[row]: image for image, row in enumerate(matched) if row >= 0}
    rows = [row for row, name in enumerate(names) if name in image_of]
    _warn_of_unmatched(table, set(range(len(names))).difference(rows))
    images = manifest.select(image_of[names[row]] for row in rows)
    said = {role: _pick(texts, rows) for role, texts in table.known.items() if role != "path"}
    splits = normalise_splits(said["split"], split_names) if "split" in said else images.splits
    extra = images.extra | {name: _pick(column, rows) for name, column in table.extra.items()}
    return dataclasses.replace(
        images,
        paths=place_boxes(images.paths, said["box"], name=table.name),
        labels=said.get("label", images.labels),
        splits=[split or kept for split, kept in zip(splits, images.splits, strict=True)],
        extra=keep_images_together(images.paths, extra),
    )


def _check_any(rows: Sequence[int], table: Table, manifest: Manifest) -> None:
    if max(rows, default=0) < 0:
        raise InputError(
            f"no row of {table.name!r} names one of the {len(manifest)} images (the first is"
            f" {manifest.paths[0]!r}); correct its paths, base names or stems"
        )


def join_archive_tables(
    manifest: Manifest, source: ArchiveSource, *, split_names: Mapping[str, str] | None = None
) -> Manifest:
    """Join the CSV files in an archive, if they name images and tell label or split.

    A row's split is its own or else what the CSV's name says (``train.csv``, ``mnist_test.csv``).

    Raises
    ------
    InputError
        When such a CSV names a file that is not in the archive, or could be several; or when rows
        of one path disagree about its label or split.
    """
    useful = [table for table in _read_archive_tables(source) if _is_useful(table, manifest.paths)]
    if not useful:
        return manifest
    for table in useful:
        table.check_encoding()
    # The one table of an archive may well be called evaluation.csv, and tell of no split.
    certain = {**SPLIT_NAMES, **(split_names or {})}.keys() if len(useful) == 1 else None
    tables = [_place(table, certain) for table in useful]
    table = _concatenate(tables)
    if any(table.known.get("box", ())):
        return join_table(manifest, table, split_names=split_names)
    table, disagreeing = _merge_rows(table)
    for column in {"label", "split"} & disagreeing.keys():
        raise InputError(
            f"rows of {table.name} in {source.root!r} give {disagreeing[column][0]!r} several"
            f" {column}s; correct the CSV or unpack the archive"
        )
    names = table.known["path"]
    unmatched = set(range(len(names))).difference(_match_rows(names, manifest.paths))
    if unmatched:
        raise InputError(
            f"{len(unmatched)} of the {len(names)} rows of {table.name} in {source.root!r} name no "
            f"image there, or several; the first is {names[min(unmatched)]!r}; correct the CSV or "
            "unpack the archive"
        )
    return join_table(manifest, table, split_names=split_names)


def _merge_rows(table: Table) -> tuple[Table, dict[str, list[str]]]:
    """Make one row of those of one path, and list the paths whose rows disagree about a column."""
    names = table.require("path")
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows_of[posixpath.normpath(compose(name))].append(row)
    if len(rows_of) == len(names):
        return table, {}
    disagreeing: defaultdict[str, list[str]] = defaultdict(list)

    def merge(header: str, column: Sequence[str]) -> list[str]:
        merged = []
        for rows in rows_of.values():
            said = dict.fromkeys(column[row] for row in rows if column[row])
            if len(said) > 1:
                disagreeing[header].append(names[rows[0]])
            merged.append(next(iter(said)) if len(said) == 1 else "")
        return merged

    known = {role: merge(role, texts) for role, texts in table.known.items() if role != "path"}
    extra = {header: merge(header, texts) for header, texts in table.extra.items()}
    paths = [names[rows[0]] for rows in rows_of.values()]
    return dataclasses.replace(table, known={"path": paths, **known}, extra=extra), disagreeing


def _warn_of_disagreement(table: Table, disagreeing: Mapping[str, Sequence[str]]) -> None:
    for column, paths in disagreeing.items():
        _log.warning(
            "%r: the rows of %d images disagree about their %s, so that they get none; the first"
            " is %r",
            *(table.name, len(paths), column, paths[0]),
        )


def _warn_of_unmatched(table: Table, unmatched: set[int]) -> None:
    if unmatched:
        names = table.known["path"]
        first = names[min(unmatched)]
        _log.warning(
            "%r: %d of the %d rows name no image, or several, and are left out; the first is %r%s",
            *(table.name, len(unmatched), len(names), first, explain_bytes(first)),
        )


def _pick(column: Sequence[str], rows: Iterable[int]) -> list[str]:
    return ["" if row < 0 else column[row] for row in rows]


def _match_rows(names: Sequence[str], paths: Sequence[str]) -> list[int]:
    """Find, for each path, the index of the name that means it; -1 for none."""
    rows = [-1] * len(paths)
    for form in (posixpath.normpath, _compose, _compose_base_name, _compose_stem):
        row_of = _index_unique(map(form, names))
        for key, image in _index_unique(map(form, paths)).items():
            if rows[image] < 0:
                rows[image] = row_of.get(key, -1)
        if -1 not in rows:
            break
    return rows


def _index_unique(keys: Iterable[str]) -> dict[str, int]:
    """Map keys to their positions, without those that occur twice."""
    index: dict[str, int] = {}
    twice = set()
    for position, key in enumerate(keys):
        if index.setdefault(key, position) != position:
            twice.add(key)
    return {key: position for key, position in index.items() if key not in twice}


def _compose(path: str) -> str:
    return posixpath.normpath(compose(path))


def _compose_base_name(path: str) -> str:
    return posixpath.basename(compose(path))


def _compose_stem(path: str) -> str:
    return drop_suffix(_compose_base_name(path))


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


def _is_useful(table: Table, paths: Sequence[str]) -> bool:
    tells = table.known.keys() & {"label", "split"} or _find_split(table)
    if not (table.known.get("path") and tells):
        return False
    if table.headers.get("path") not in _VAGUE_HEADERS:
        return True
    return max(_match_rows(table.known["path"], paths), default=-1) >= 0


def _place(table: Table, certain: Set[str] | None) -> Table:
    """Make paths relative to the archive instead of the CSV, and fill in the implied split."""
    folder, implied = posixpath.dirname(table.name), _find_split(table)
    if certain is not None and implied not in certain:
        implied = ""
    paths = table.known["path"]
    splits = table.known.get("split", [""] * len(paths))
    placed = {
        "path": [posixpath.join(folder, path) for path in paths],
        "split": [split or implied for split in splits],
    }
    return dataclasses.replace(table, known=table.known | placed)


def _find_split(table: Table) -> str:
    """Return the split that a CSV's name tells, as it is called there; "" for none."""
    return name_split(posixpath.basename(table.name))


def _concatenate(tables: Sequence[Table]) -> Table:
    """Stack tables; a column that one of them lacks is empty in its rows."""

    def stack(columns: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
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
        known={**stack([table.known for table in tables])},
        extra=stack([table.extra for table in tables]),
    )
