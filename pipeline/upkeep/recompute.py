"""Compute rows of feature sets once more, from their images, as `extract` did."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.index import Index, IndexedFile
from permafrost.cache.store.layout import CacheLayout
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.forward.program import build_program
from permafrost.pipeline.forward.verdicts import Verdicts
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions, RunOptions
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.memory import fit_memory
from permafrost.pipeline.planning.missing import ExtractionPlan
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.pipeline.planning.remembered import recall_origin
from permafrost.pipeline.progress import Shares
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.engines.support import check_precision
from permafrost.stages.errors import StageError
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.source import find_file

if TYPE_CHECKING:
    from permafrost.pipeline.forward.batch import LoadedBatch

# The key of a feature set → the digests of the rows that are wanted.
Wanted = Mapping[str, Sequence[bytes]]
# The key of a feature set → how it was asked for, with no other layer than its own.
Origins = dict[str, FeatureOptions]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecomputedRow:
    """One row of one feature set.

    Attributes
    ----------
    key : str
        The feature set's.
    digest : bytes
        The image's.
    image : str
        Where it lies, if it was read.
    values : ndarray of float32 or uint8, shape (*shape), or None
        What extraction gives for it; None where that cannot be had.
    reason : str
        Why it cannot.
    """

    key: str
    digest: bytes
    image: str = ""
    values: NDArray[Any] | None = None
    reason: str = ""


class KnownFiles:
    """Reads files by the keys that the index knows them by, wherever they lie."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes; `OSError` for whatever cannot be read."""
        found = find_file(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        source, inner = found
        return source.read(inner)

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return the paths, which are keys already."""
        return list(paths)


def recompute(
    layout: CacheLayout, index: Index, run: RunOptions, wanted: Wanted
) -> Iterator[RecomputedRow]:
    """Yield each row that is wanted, computed from its image, in any order.

    An image goes through a backbone once, for all the layers that it is wanted of. The index knows
    how the features were asked for, and where the images lie.
    """
    paths, lost = _find_images({one for digests in wanted.values() for one in digests}, index)
    groups, refused = _group_sets(wanted, index)
    for origins in groups:
        specs = dict.fromkeys(origin.layers[0] for origin in origins.values())
        features = replace(next(iter(origins.values())), layers=tuple(specs))
        here = {key: {one: paths[one] for one in wanted[key] if one in paths} for key in origins}
        try:
            prepared = _prepare(features, layout, index, run, wanted=here)
        except (StageError, PipelineError) as error:
            refused |= dict.fromkeys(origins, str(error))
            continue
        able = {layer.features.key for layer in prepared.plan.layers}
        reason = f"{features.backbone} gives other numbers now: it, Keras or this program changed"
        refused |= dict.fromkeys(origins.keys() - able, reason)
        if prepared.plan.active:
            yield from _forward(features, prepared, run)
    for key, digests in wanted.items():
        for digest in digests:
            if why := refused.get(key) or lost.get(digest):
                yield RecomputedRow(key=key, digest=digest, reason=why)


def _prepare(
    features: FeatureOptions,
    layout: CacheLayout,
    index: Index,
    run: RunOptions,
    *,
    wanted: Mapping[str, Mapping[bytes, str]],
) -> Preparation:
    """Plan the rows, digest → image, of those feature sets that the options still give."""
    paths = {one: path for rows in wanted.values() for one, path in rows.items()}
    # By archive, whose directory takes longer to read than an image.
    digests = sorted(paths, key=paths.__getitem__)
    nothing = [""] * len(digests)
    manifest = Manifest(
        root="",
        paths=Texts.of(paths[one] for one in digests),
        labels=nothing,
        splits=nothing,
        digests=Digests.of(digests),
    )
    dataset = Dataset(manifest=manifest, source=KnownFiles(), unreadable={})
    options = ExtractOptions(dataset=DatasetOptions(images=""), features=features, run=run)
    prepared = prepare(options, layout, index, dataset=dataset)
    layers = [
        replace(layer, missing=np.array([one in wanted[key] for one in digests], np.bool_))
        for layer in prepared.plan.layers
        if (key := layer.features.key) in wanted
    ]
    plan = ExtractionPlan(
        digests=manifest.digests,
        paths=manifest.paths,
        layers=layers,
        active=[layer for layer in layers if layer.missing.any()],
    )
    if plan.of_network:
        check_precision(features.engine, features.precision)
    fitting = fit_memory(run, prepared.backbone, dataset=dataset, plan=plan)
    return replace(prepared, plan=plan, fitting=fitting, n_rows=len(digests))


def _forward(
    features: FeatureOptions, prepared: Preparation, run: RunOptions
) -> Iterator[RecomputedRow]:
    """Load → forward, overlapped, as `extract` does."""
    from permafrost.pipeline.forward.batch import split_batches
    from permafrost.pipeline.forward.forward_pass import ForwardPass
    from permafrost.pipeline.forward.loader import LoaderThreads, load_ahead

    plan = prepared.plan
    rows = np.arange(len(plan.digests))
    tasks = split_batches(plan.paths, plan.digests, rows, batch_size=prepared.fitting.batch_size)
    with (
        LoaderThreads(run.n_threads) as loaders,
        ForwardPass(lambda: build_program(features, prepared, Verdicts()), Shares()) as backbone,
    ):
        loader = load_ahead(loaders, prepared, tasks, n_workers=run.n_threads)
        for batch, activations in backbone.run(loader):
            yield from _split(plan, batch, activations)


def _group_sets(wanted: Wanted, index: Index) -> tuple[list[Origins], dict[str, str]]:
    """Group the feature sets that one program computes; say why others cannot be computed."""
    groups: dict[FeatureOptions, Origins] = {}
    refused: dict[str, str] = {}
    for key in wanted:
        try:
            origin = recall_origin(index, key)
        except PipelineError as error:
            refused[key] = str(error)
            continue
        if origin is None:
            refused[key] = "how its features were asked for is not known here"
        else:
            groups.setdefault(replace(origin, layers=("-",)), {})[key] = origin
    return list(groups.values()), refused


def _find_images(
    digests: Collection[bytes], index: Index
) -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Return where images lie, and why others cannot be found."""
    paths: dict[bytes, str] = {}
    lost = dict.fromkeys(digests, "its image is not known here")
    known = [file for files in index.files_of(digests).values() for file in files]
    for file in sorted(known, key=lambda file: file.key):
        if file.digest in paths:
            continue
        change = _find_change(file)
        if change:
            lost[file.digest] = f"its image {file.key!r} {change}"
        else:
            paths[file.digest] = file.key
    return paths, {digest: why for digest, why in lost.items() if digest not in paths}


def _find_change(file: IndexedFile) -> str:
    """Say what became of a file since it was hashed; nothing if it holds the same bytes."""
    found = find_file(file.key)
    if found is None:
        return "is gone"
    source, path = found
    # A file that was copied or touched has another stamp, but perhaps the same bytes.
    is_same = source.fingerprints([path]) == [file.fingerprint] or (
        hash_images(source, [path], workers=1) == [file.digest]
    )
    return "" if is_same else "changed since"


def _split(
    plan: ExtractionPlan, batch: LoadedBatch, activations: list[NDArray[Any]]
) -> Iterator[RecomputedRow]:
    reasons = batch.broken | batch.unreadable
    for number, layer in enumerate(plan.active):
        for place, row in enumerate(batch.rows):
            if layer.missing[row]:
                yield RecomputedRow(
                    key=layer.features.key,
                    digest=plan.digests[row],
                    image=plan.paths[row],
                    values=None if place in reasons else activations[number][place],
                    reason=reasons.get(place, ""),
                )
