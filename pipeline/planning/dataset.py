"""The dataset that the user named, as rows with labels, splits and digests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np

from permafrost.cache.store.index import Index
from permafrost.pipeline.options import DatasetOptions
from permafrost.pipeline.parsers import Part
from permafrost.pipeline.planning.hashing import Hasher
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.folders import Ignored
from permafrost.stages.datasets.groups import describe_parted, find_parted, is_group
from permafrost.stages.datasets.labels import (
    FindMissing,
    ListedDataset,
    list_dataset,
    list_table,
)
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import parse_split_names
from permafrost.stages.datasets.splits import (
    assign_splits,
    find_crossing_duplicates,
    find_crossing_groups,
    label_conflicts,
)
from permafrost.stages.datasets.targets import find_classes
from permafrost.stages.sources.source import Reader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A manifest whose rows are hashed, and where its images are read.

    Attributes
    ----------
    manifest : Manifest
        An unreadable row's digest is ``b""``.
    source : Reader
        With an absolute root: workers may run in another folder.
    unreadable : dict of str to str
        Path → reason.
    ignored : Ignored
        What lies beside the images.
    """

    manifest: Manifest
    source: Reader
    unreadable: dict[str, str]
    ignored: Ignored = field(default_factory=Ignored)


def open_dataset(
    options: DatasetOptions, index: Index | None, *, workers: int, part: Part | None = None
) -> Dataset:
    """List, label, select, hash and split a dataset.

    Parameters
    ----------
    options : DatasetOptions
    index : Index, optional
        Knows the digests of files that have not changed since they were last hashed.
    workers : int
        Threads that hash.
    part : Part, optional
        Only these rows, which have no splits.
    """
    hasher = Hasher(index, workers=workers)
    listed = _list_images(options, hasher.find_missing)
    manifest, source = listed.manifest, listed.source.make_absolute()
    if options.classes is not None:
        rows = find_classes(manifest.labels, options.classes, where=f"in {manifest.root!r}")
        manifest = manifest.select(rows)
    if part is not None:
        manifest = manifest.select(part.slice_rows(len(manifest)))
    digests = hasher.hash(source, manifest.paths)
    _warn_of_changes(manifest, digests)
    manifest = replace(manifest, digests=digests)
    if part is None:
        manifest = assign_splits(manifest, options.split, seed=options.seed, group=options.group)
        _warn_of_duplicates(manifest, options.group)
    return Dataset(
        manifest=manifest,
        source=source,
        unreadable=hasher.list_unreadable(),
        ignored=listed.ignored,
    )


def _list_images(options: DatasetOptions, find_missing: FindMissing) -> ListedDataset:
    if options.manifest is None:
        return list_dataset(
            str(options.images),
            labels=options.labels,
            split_names=options.split_names,
            # Where labels cannot be had, nobody should wait for hashes to be told so.
            **({} if options.labels else {"find_missing": find_missing}),
        )
    names = parse_split_names(options.split_names)
    return list_table(options.manifest, split_names=names, find_missing=find_missing)


def _warn_of_changes(manifest: Manifest, digests: Digests) -> None:
    before, now = (one.array.view(np.uint64) for one in (manifest.digests, digests))
    differ = (before != now).any(axis=1)
    n_changed = int((differ & manifest.digests.known & digests.known).sum())
    if n_changed:
        _log.warning("%d images changed since the manifest was written", n_changed)


def _warn_of_duplicates(manifest: Manifest, group: str | None) -> None:
    for crossing, message in (
        (
            find_crossing_duplicates(manifest),
            "%d images lie in more than one split, so the test is not honest: %s is also %s",
        ),
        (
            find_crossing_groups(manifest, group),
            "%d groups lie in more than one split, so the test is not honest: %s and %s are of one",
        ),
    ):
        if crossing:
            _log.warning(message, len(crossing), *crossing[0])
    others = {name: column for name, column in manifest.extra.items() if not is_group(name, group)}
    parted = find_parted(others, manifest.splits)
    if parted:
        _log.warning("%s", describe_parted(parted, what="the splits"))
    n_conflicts = label_conflicts(manifest)
    if n_conflicts:
        _log.warning("%d images occur with different labels", n_conflicts)
