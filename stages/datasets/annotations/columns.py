"""What shards tell of their rows, as the columns of a dataset."""

from __future__ import annotations

import dataclasses
import glob
import logging
import posixpath
from collections.abc import Mapping

from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import name_split, normalise_splits
from permafrost.stages.datasets.table import COLUMN_NAMES
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.sources.archive import ArchiveSource, load_members
from permafrost.stages.sources.folder import FolderSource, Listing
from permafrost.stages.sources.members import Span
from permafrost.stages.sources.sharded.shard import Columns
from permafrost.stages.sources.sharded.source import KINDS, ShardedSource
from permafrost.stages.sources.sharded.webdataset import collect_samples
from permafrost.stages.sources.source import Source

_log = logging.getLogger(__name__)


def find_shards(source: Source, listing: Listing) -> Source:
    """Return the shards in a folder that has no images; any other source as it is."""
    if listing.images or not isinstance(source, FolderSource):
        return source
    for suffix in KINDS:
        n_files = sum(path.lower().endswith(suffix) for path in listing.others)
        if n_files:
            _log.info("%r: %d files %s are shards", source.root, n_files, suffix)
            return ShardedSource(f"{glob.escape(source.root.rstrip('/'))}/**/*{suffix}")
    return source


def read_columns(source: Source) -> Columns:
    """Read what a source tells of its rows, in their order; nothing of one that tells nothing."""
    if isinstance(source, ShardedSource):
        return source.list_columns()
    if isinstance(source, ArchiveSource):
        members = load_members(source.root)
        if isinstance(next(iter(members.values()), None), Span):
            return collect_samples(source.root, members).read_columns()
    return Columns()


def take_columns(
    manifest: Manifest, columns: Columns, *, label: str, split_names: Mapping[str, str]
) -> Manifest:
    """Take labels, splits and further columns from what a source tells.

    Parameters
    ----------
    manifest : Manifest
    columns : Columns
    label : str
        The column of labels; "" for the one that is certain, or is called so.
    split_names : mapping of str to str
        See `normalise_splits`.

    Raises
    ------
    UnknownNameError, InputError
        There is no such column, or none at all.
    """
    texts = dict(columns.texts)
    if label and not texts:
        raise InputError(
            f"{manifest.root!r} has no columns besides its images; drop --labels 'column:{label}'"
        )
    if label and label not in texts:
        raise UnknownNameError("column", label, tuple(texts), where=f"of {manifest.root!r}")
    usual = [name for name in texts if name.casefold() in COLUMN_NAMES["label"]]
    # Splits are labels only where that is asked for.
    label = label or (columns.label if columns.label != "split" else "") or next(iter(usual), "")
    labels = texts.pop(label) if label else manifest.labels
    splits = normalise_splits(texts.pop("split", [""] * len(manifest)), split_names)
    return dataclasses.replace(
        manifest,
        labels=[*labels],
        splits=[told or kept for told, kept in zip(splits, manifest.splits, strict=True)],
        # A manifest has columns of its own.
        extra=manifest.extra
        | {
            f"source_{name}" if name.casefold() in COLUMN_NAMES else name: [*column]
            for name, column in texts.items()
        },
    )


def name_splits(source: ShardedSource, split_names: Mapping[str, str]) -> list[str]:
    """Return the split that each row's shard is called by, or else the folder that it lies in."""
    splits: list[str] = []
    for shard, names in source.list_shards():
        folder, name = posixpath.split(shard)
        told = name_split(name) or name_split(posixpath.basename(folder))
        splits += [told] * len(names)
    return normalise_splits(splits, split_names)
