"""The dataset that the user named, as rows with labels, splits and digests."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from permafrost.cache.store.index import Index, IndexedFile
from permafrost.pipeline.options import DatasetOptions
from permafrost.refusals import SHORTAGES
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.folders import Ignored
from permafrost.stages.datasets.groups import describe_parted, find_parted, is_group
from permafrost.stages.datasets.labels import ListedDataset, list_dataset, list_table
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import parse_split_names
from permafrost.stages.datasets.splits import (
    assign_splits,
    find_crossing_duplicates,
    find_crossing_groups,
    label_conflicts,
)
from permafrost.stages.datasets.targets import find_classes
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.source import Reader, Source

_log = logging.getLogger(__name__)

# Files that are hashed and added to the index together: keys and fingerprints of a million files
# need not be held at once, and an interrupted run need not hash the earlier ones again.
_FILES_PER_BATCH = 5000


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


def open_dataset(options: DatasetOptions, index: Index | None, *, workers: int) -> Dataset:
    """List, label, select, hash and split a dataset.

    Parameters
    ----------
    options : DatasetOptions
    index : Index, optional
        Knows the digests of files that have not changed since they were last hashed.
    workers : int
        Threads that hash.
    """
    listed = _list_images(options)
    manifest, source = listed.manifest, listed.source.make_absolute()
    if options.classes is not None:
        rows = find_classes(manifest.labels, options.classes, where=f"in {manifest.root!r}")
        manifest = manifest.select(rows)
    digests, unreadable = _hash(source, manifest.paths, index, workers=workers)
    _warn_of_changes(manifest, digests)
    manifest = replace(manifest, digests=digests)
    manifest = assign_splits(manifest, options.split, seed=options.seed, group=options.group)
    _warn_of_duplicates(manifest, options.group)
    return Dataset(manifest=manifest, source=source, unreadable=unreadable, ignored=listed.ignored)


def _list_images(options: DatasetOptions) -> ListedDataset:
    if options.manifest is None:
        return list_dataset(
            str(options.images), labels=options.labels, split_names=options.split_names
        )
    return list_table(options.manifest, split_names=parse_split_names(options.split_names))


def _hash(
    source: Source, paths: list[str], index: Index | None, *, workers: int
) -> tuple[Digests, dict[str, str]]:
    digests: list[Digests] = []
    unreadable: dict[str, str] = {}
    for start in range(0, len(paths), _FILES_PER_BATCH):
        batch = paths[start : start + _FILES_PER_BATCH]
        found = _hash_batch(source, batch, index, workers=workers)
        told = (digest if isinstance(digest, bytes) else b"" for digest in found)
        digests.append(Digests.of(told))
        unreadable |= {
            path: explain_os_error(error)
            for path, error in zip(batch, found, strict=True)
            if isinstance(error, OSError)
        }
    return Digests.join(digests), unreadable


def _hash_batch(
    source: Source, paths: list[str], index: Index | None, *, workers: int
) -> list[bytes | OSError]:
    keys = source.file_keys(paths)
    told = dict(zip(keys, source.fingerprints(paths), strict=True))
    prints = {key: text for key, text in told.items() if isinstance(text, str)}
    known = index.digests_of(prints) if index else {}
    unknown = prints.keys() - known
    todo = {key: path for key, path in zip(keys, paths, strict=True) if key in unknown}
    fresh = dict(zip(todo, hash_images(source, list(todo.values()), workers=workers), strict=True))
    if index:
        hashed = {key: digest for key, digest in fresh.items() if isinstance(digest, bytes)}
        index.add_files(IndexedFile(key, prints[key], hashed[key]) for key in hashed)
    missing = {key: error for key, error in told.items() if isinstance(error, OSError)}
    return [*map({**missing, **known, **fresh}.__getitem__, keys)]


def explain_os_error(error: OSError) -> str:
    """Return the reason alone: the path stands beside it.

    Raises
    ------
    OSError
        The process has no descriptor or memory left, which is no fault of the image.
    """
    if error.errno in SHORTAGES:
        raise error
    return (error.strerror or str(error) or type(error).__name__).lower()


def _warn_of_changes(manifest: Manifest, digests: Digests) -> None:
    differ = (manifest.digests.array != digests.array).any(axis=1)
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
