"""Lists a dataset and finds its labels: from folders, file names or tables."""

from __future__ import annotations

import dataclasses
import logging
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from permafrost.stages.datasets.annotations.coco import read_coco
from permafrost.stages.datasets.annotations.columns import (
    find_shards,
    name_splits,
    read_columns,
    take_columns,
)
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.folders import (
    Ignored,
    Layout,
    count_ignored,
    read_layout,
    warn_of_layout,
)
from permafrost.stages.datasets.join import join_archive_tables, join_table
from permafrost.stages.datasets.manifest import Manifest, read_manifest
from permafrost.stages.datasets.split_names import is_like_split, parse_split_names
from permafrost.stages.datasets.table import explain_bytes, read_table
from permafrost.stages.datasets.targets import warn_of_lookalikes
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError
from permafrost.stages.sources.archive import ArchiveSource
from permafrost.stages.sources.boxes import drop_box
from permafrost.stages.sources.folder import IMAGE_SUFFIXES, FolderSource, drop_file_scheme
from permafrost.stages.sources.names import find_missing, find_names
from permafrost.stages.sources.remote import is_url
from permafrost.stages.sources.sharded.shard import Columns
from permafrost.stages.sources.sharded.source import ShardedSource
from permafrost.stages.sources.source import Source, open_source

_log = logging.getLogger(__name__)

# Returns the paths that are no files, out of some of a source.
FindMissing = Callable[[Source, Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDataset:
    """Rows with labels and splits, and where they come from.

    Attributes
    ----------
    manifest : Manifest
    source : Source
        What its paths are read from.
    ignored : Ignored
        What the source holds besides.
    missing : dict of str to str
        Paths of rows of a table that are no files → what may help, or "".
    """

    manifest: Manifest
    source: Source
    ignored: Ignored = field(default_factory=Ignored)
    missing: dict[str, str] = field(default_factory=dict)


def list_dataset(
    location: str,
    *,
    labels: str | None = None,
    split_names: str | None = None,
    find_missing: FindMissing = find_missing,
) -> ListedDataset:
    """List the images at a location with labels and predefined splits; digests are empty.

    A CSV gives its rows in their order, everything else gives its images sorted by path. A table
    in an archive finds its images by path, or by base name or stem where only one has it.
    Whatever is left out, or may be meant in another way, is warned of.

    Parameters
    ----------
    location : str
        A folder, an archive, a CSV file or a URL.
    labels : str, optional
        ``folder``, ``filename:REGEX`` (the first group or else the whole match, searched in the
        base name), ``column:NAME`` (a further column of a table, or what a shard tells),
        ``csv:FILE`` (labels, splits and further columns looked up by path, base name or stem;
        without a column of labels, those of the default stay), or ``coco:FILE`` (a row for each box
        of a COCO file).
        By default what the CSV at the location or in the archive says; otherwise the folders.
    split_names : str, optional
        What splits are called besides their usual names, as in ``holdout=test,eval=val``.
    find_missing : FindMissing, optional
        See `list_table`.

    Raises
    ------
    InputError
        When there are no images, a table is unusable or none of its files exists, or labels that
        were asked for are found for none of the images.
    """
    location, chosen = drop_file_scheme(location), parse_split_names(split_names)
    source = open_source(location)
    if isinstance(source, FolderSource) and not Path(location).is_dir():
        found = list_table(Path(location), split_names=chosen, find_missing=find_missing)
        _report_missing(found, location)
        manifest = dataclasses.replace(found.manifest, digests=Digests.none(len(found.manifest)))
        if labels is not None:
            manifest = _relabel(manifest, labels, chosen)
            _warn_of_unlabelled(manifest)
        found = dataclasses.replace(found, manifest=manifest)
    else:
        found = _list_images(source, labels, chosen)
        _warn_of_unlabelled(found.manifest)
    warn_of_lookalikes(found.manifest.labels, what="labels")
    _warn_of_split_columns(found.manifest)
    return found


def list_table(
    file: Path,
    *,
    split_names: Mapping[str, str] | None = None,
    find_missing: FindMissing = find_missing,
) -> ListedDataset:
    """List the rows of a manifest, or of any CSV with a column of paths.

    A path that is none is taken for the one file that it means, see `find_names`.

    Parameters
    ----------
    file : Path
    split_names : mapping of str to str, optional
        See `normalise_splits`.
    find_missing : FindMissing, optional
        For who asks the system about every file anyway, and can do it here.

    Raises
    ------
    InputError
        When the file cannot be used, has no rows, or its root cannot be opened.
    """
    manifest = read_manifest(file, split_names=split_names)
    if not manifest.paths:
        raise InputError(f"no images in {str(file)!r}: it has no rows")
    source = open_source(manifest.root)
    paths = manifest.paths
    if paths.holds("file:"):
        paths = Texts.of(map(drop_file_scheme, paths))
    gone = find_missing(source, paths)
    meant = find_names(source, dict.fromkeys(map(drop_box, gone)))
    if meant.found:
        paths = Texts.of(_move(path, meant.found) for path in paths)
    return ListedDataset(
        manifest=dataclasses.replace(manifest, paths=paths),
        source=source,
        missing={
            path: f" (there is {near!r})"
            if (near := meant.near.get(drop_box(path)))
            else explain_bytes(path)
            for path in gone
            if drop_box(path) not in meant.found
        },
    )


def _move(path: str, found: Mapping[str, str]) -> str:
    """Return where an image is found, with the box that its path tells."""
    image = drop_box(path)
    return found.get(image, image) + path[len(image) :]


def _report_missing(found: ListedDataset, location: str) -> None:
    """Warn of rows without a file; refuse a table whose rows have none at all."""
    if not found.missing:
        return
    paths = found.manifest.paths
    n_missing = sum(path in found.missing for path in paths)
    first, hint = next(iter(found.missing.items()))
    line = (
        f"{n_missing} of the {len(paths)} files named in {location!r} do not exist, the first is"
        f" {first!r}{hint}; paths are relative to {found.manifest.root!r}"
    )
    if n_missing == len(paths):
        raise InputError(line)
    _log.warning("%s", line)


def _list_images(
    source: Source, labels: str | None, split_names: Mapping[str, str]
) -> ListedDataset:
    listing = source.list_files()
    found = find_shards(source, listing)
    if found is not source:
        source, listing = found, found.list_files()
    paths = Texts.of(listing.images)
    # What shards are called are no classes.
    names: Sequence[str] = paths
    if isinstance(source, ShardedSource):
        names = [name for _, names in source.list_shards() for name in names]
        if absent := source.find_absent():
            _log.warning("%r: shards are missing: %s; get the others, too", source.root, absent)
    layout = read_layout(names, others=listing.others, split_names=split_names)
    ignored = count_ignored(listing, layout)
    for line in ignored.describe():
        _log.warning("%r: %s", source.root, line)
    if not paths:
        why = f"no file name ends in {', '.join(IMAGE_SUFFIXES)}"
        if isinstance(source, ShardedSource):
            why = "it has no rows; name another"
        raise InputError(f"no images in {source.root!r}: {why}")
    by_folder, splits = _read_folders(names, layout)
    if isinstance(source, ShardedSource):
        told = name_splits(source, split_names)
        splits = [one or other for one, other in zip(told, splits, strict=True)]
    manifest = Manifest(
        root=source.root,
        paths=paths,
        labels=by_folder,
        splits=splits,
        digests=Digests.none(len(paths)),
    )
    kind, _, column = (labels or "").partition(":")
    columns = read_columns(source)
    if columns.texts:
        label = column if kind == "column" else ""
        manifest = take_columns(manifest, columns, label=label, split_names=split_names)
    if isinstance(source, ArchiveSource):
        manifest = join_archive_tables(manifest, source, split_names=split_names)
    if labels == "folder":
        manifest = dataclasses.replace(manifest, labels=by_folder)
        _check_labelled(manifest, labels)
    elif labels is not None and not (kind == "column" and columns.texts):
        manifest = _relabel(manifest, labels, split_names)
    if manifest.labels == by_folder:
        warn_of_layout(layout, paths, by_folder, root=source.root)
    return ListedDataset(manifest=manifest, source=source, ignored=ignored)


def _relabel(manifest: Manifest, rule: str, split_names: Mapping[str, str]) -> Manifest:
    kind, _, argument = rule.partition(":")
    if rule == "folder":
        layout = read_layout(manifest.paths, split_names=split_names, from_table=True)
        labels, splits = _read_folders(manifest.paths, layout)
        if any(manifest.splits):
            splits = manifest.splits
        relabelled = dataclasses.replace(manifest, labels=labels, splits=splits)
    elif kind == "filename":
        names = _search_names(manifest.paths, argument)
        relabelled = dataclasses.replace(manifest, labels=names)
    elif kind == "csv":
        table = read_table(_find_on_disk(argument))
        if table.extra and "label" not in table.known:
            return join_table(manifest, table, split_names=split_names)
        table.require("label")
        relabelled = join_table(manifest, table, split_names=split_names)
    elif kind == "column":
        columns = Columns(texts=manifest.extra)
        bare = dataclasses.replace(manifest, extra={})
        relabelled = take_columns(bare, columns, label=argument, split_names=split_names)
    elif kind == "coco":
        table = read_coco(_find_on_disk(argument))
        relabelled = join_table(manifest, table, split_names=split_names)
    else:
        raise InputError(
            f"unknown labels {rule!r}; write folder, filename:REGEX, column:NAME, csv:FILE or"
            " coco:FILE"
        )
    _check_labelled(relabelled, rule)
    return relabelled


def _find_on_disk(table: str) -> Path:
    file = drop_file_scheme(table)
    if is_url(file):
        raise InputError(f"cannot read labels from {table!r}; download it, and name the file")
    return Path(file)


def _check_labelled(manifest: Manifest, rule: str) -> None:
    if not any(manifest.labels):
        raise InputError(
            f"--labels {rule!r} finds a label for none of the {len(manifest)} images "
            f"(the first is {manifest.paths[0]!r}); correct it or choose another kind"
        )


def _search_names(paths: Sequence[str], regex: str) -> list[str]:
    try:
        pattern = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"bad regular expression {regex!r} for labels: {error}") from error
    group = min(pattern.groups, 1)
    found = (pattern.search(posixpath.basename(path)) for path in paths)
    return [(match[group] or "") if match else "" for match in found]


def _read_folders(paths: Sequence[str], layout: Layout) -> tuple[list[str], list[str]]:
    """Return the label and the split of each image."""
    folders = [path[: path.rfind("/") + 1] for path in paths]
    placed = {folder: layout.place(folder) for folder in set(folders)}
    return [placed[folder][0] for folder in folders], [placed[folder][1] for folder in folders]


def _warn_of_split_columns(manifest: Manifest) -> None:
    for header, texts in manifest.extra.items() if not any(manifest.splits) else ():
        names = {text.strip().lower() for text in set(texts)} - {""}
        if len(names) > 1 and all(map(is_like_split, names)):
            _log.warning(
                "%r: the column %r looks like one of splits (%s) and is not read as such; if it is"
                " one, call it split",
                *(manifest.root, header, ", ".join(map(repr, sorted(names)[:5]))),
            )


def _warn_of_unlabelled(manifest: Manifest) -> None:
    n_unlabelled = manifest.labels.count("")
    if 0 < n_unlabelled < len(manifest):
        _log.warning(
            "%r: %d of the %d images have no label, so that no head is fitted on them; the first"
            " is %r",
            *(manifest.root, n_unlabelled, len(manifest)),
            manifest.paths[manifest.labels.index("")],
        )
