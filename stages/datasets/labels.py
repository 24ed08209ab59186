"""Lists a dataset and finds its labels: from folders, file names or tables."""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from permafrost.stages.datasets.join import join_archive_tables, join_table
from permafrost.stages.datasets.manifest import SPLIT_NAMES, Manifest, read_manifest
from permafrost.stages.datasets.table import read_table
from permafrost.stages.errors import InputError
from permafrost.stages.sources.folder import IMAGE_SUFFIXES
from permafrost.stages.sources.remote import drop_file_scheme
from permafrost.stages.sources.source import ArchiveSource, FolderSource, Source, open_source

_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def list_dataset(location: str, *, labels: str | None = None) -> tuple[Manifest, Source]:
    """List the images at a location with labels and predefined splits; digests are empty.

    A CSV gives its rows in their order, everything else gives its images sorted by path. A table
    in an archive finds its images by path, or by base name or stem where only one has it.

    Parameters
    ----------
    location : str
        A folder, an archive, a CSV file or a URL.
    labels : str, optional
        ``folder``, ``filename:REGEX`` (the first group or else the whole match, searched in the
        base name), or ``csv:FILE`` (labels, splits and further columns looked up by path, base
        name or stem; without a column of labels, those of the default stay).
        By default what the CSV at the location or in the archive says; otherwise the folders.

    Returns
    -------
    Manifest
    Source
        What its paths are read from.

    Raises
    ------
    InputError
        When there are no images, a table is unusable or names a missing file, or labels that were
        asked for are found for none of the images.
    """
    location = drop_file_scheme(location)
    source = open_source(location)
    is_table = isinstance(source, FolderSource) and not Path(location).is_dir()
    if is_table:
        manifest, source = _list_table(Path(location))
    else:
        manifest = _list_images(source)
    if isinstance(source, ArchiveSource) and not is_table:
        manifest = join_archive_tables(manifest, source)
    if labels is None:
        return manifest, source
    wrapped = is_table or isinstance(source, ArchiveSource)
    return _relabel(manifest, labels, wrapped=wrapped), source


def _list_images(source: Source) -> Manifest:
    paths = source.list_images()
    if not paths:
        raise InputError(
            f"no images in {source.root!r}: no file name ends in {', '.join(IMAGE_SUFFIXES)}"
        )
    labels, splits = _read_folders(paths, wrapped=isinstance(source, ArchiveSource))
    return Manifest(
        root=source.root, paths=paths, labels=labels, splits=splits, digests=[b""] * len(paths)
    )


def _list_table(file: Path) -> tuple[Manifest, Source]:
    manifest = read_manifest(file)
    if not manifest.paths:
        raise InputError(f"no images in {str(file)!r}: it has no rows")
    source = open_source(manifest.root)
    found = source.fingerprints(manifest.paths)
    # For any other error it is there; why it cannot be read is for the reader to say.
    missing = [
        path for path, it in zip(manifest.paths, found, strict=True) if isinstance(it, _GONE)
    ]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(manifest)} files named in {str(file)!r} do not exist, "
            f"the first is {missing[0]!r}; paths are relative to {manifest.root!r}"
        )
    return dataclasses.replace(manifest, digests=[b""] * len(manifest)), source


def _relabel(manifest: Manifest, rule: str, *, wrapped: bool) -> Manifest:
    kind, _, argument = rule.partition(":")
    if rule == "folder":
        labels, splits = _read_folders(manifest.paths, wrapped=wrapped)
        if any(manifest.splits):
            splits = manifest.splits
        relabelled = dataclasses.replace(manifest, labels=labels, splits=splits)
    elif kind == "filename":
        names = _search_names(manifest.paths, argument)
        relabelled = dataclasses.replace(manifest, labels=names)
    elif kind == "csv":
        table = read_table(Path(argument))
        if table.extra and "label" not in table.known:
            return join_table(manifest, table)
        table.require("label")
        relabelled = join_table(manifest, table)
    else:
        raise InputError(f"unknown labels {rule!r}; write folder, filename:REGEX or csv:FILE")
    if not any(relabelled.labels):
        raise InputError(
            f"--labels {rule!r} finds a label for none of the {len(manifest)} images "
            f"(the first is {manifest.paths[0]!r}); correct it or choose another kind"
        )
    return relabelled


def _search_names(paths: Sequence[str], regex: str) -> list[str]:
    try:
        pattern = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"bad regular expression {regex!r} for labels: {error}") from error
    group = min(pattern.groups, 1)
    found = (pattern.search(posixpath.basename(path)) for path in paths)
    return [(match[group] or "") if match else "" for match in found]


def _read_folders(paths: Sequence[str], *, wrapped: bool) -> tuple[list[str], list[str]]:
    """Read label and split from the folders of each path.

    Archives and tables often hold everything below one folder that means nothing; ``wrapped``
    looks through it.
    """
    folders = [path.split("/")[:-1] for path in paths]
    if wrapped:
        depth = _count_wrappers(folders)
        folders = [names[depth:] for names in folders]
    if _has_split_folders(folders):
        splits = [SPLIT_NAMES.get(names[0].lower(), "") if names else "" for names in folders]
    else:
        splits = [""] * len(folders)
    inner = [names[bool(split) :] for names, split in zip(folders, splits, strict=True)]
    return [names[0] if names else "" for names in inner], splits


def _has_split_folders(folders: Sequence[list[str]]) -> bool:
    """Whether the top level is train/, test/ and the like rather than classes.

    Either nothing else is there, or ``train`` has class folders inside: a class of railway
    pictures called "train" has none.
    """
    top = {names[0].lower() for names in folders if names}
    nested = {names[0].lower() for names in folders if len(names) > 1}
    return top <= SPLIT_NAMES.keys() or any(SPLIT_NAMES.get(name) == "train" for name in nested)


def _count_wrappers(folders: Sequence[list[str]]) -> int:
    """Count the leading folders that all images share, never a split nor the innermost."""
    # What the first and the last in order share, all share.
    levels = zip(min(folders), max(folders), strict=False)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], levels)
    wrappers = itertools.takewhile(lambda pair: pair[0].lower() not in SPLIT_NAMES, shared)
    return max(0, min(len(list(wrappers)), min(map(len, folders)) - 1))
