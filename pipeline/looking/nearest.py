"""The images of a dataset that are most alike to one, by some of its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.recipe import recipe_key
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import Classifier, ClassifierPart
from permafrost.pipeline.looking.photos import Photos, find_photos
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, Targets, parse_targets
from permafrost.stages.evaluation.neighbours import find_largest, measure_cosines

N_EACH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An image, how alike it is (the cosine), and what the dataset says of it."""

    path: str
    similarity: float
    label: str
    split: str

    def to_dict(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return asdict(self)


def list_nearest(
    files: FeatureFiles,
    cosines: NDArray[np.float64],
    *,
    among: NDArray[np.bool_],
    column: str,
    n: int,
) -> tuple[Neighbour, ...]:
    """List the n images of which the cosine is largest, the largest first.

    Parameters
    ----------
    files : FeatureFiles
    cosines : ndarray of float64, shape (n_rows,)
    among : ndarray of bool, shape (n_rows,)
    column : str
        With the labels.
    n : int
    """
    labels = files.column(column)
    return tuple(
        Neighbour(
            path=files.paths[row],
            similarity=float(cosines[row]),
            label=labels[row],
            split=str(files.splits[row]),
        )
        for row in find_largest(cosines, among, n=n).tolist()
    )


def is_other(files: FeatureFiles, digest: bytes) -> NDArray[np.bool_]:
    """Tell which rows have another id than this one: ndarray of bool, shape (n_rows,)."""
    return np.asarray((files.digests != np.frombuffer(digest, np.uint8)).any(axis=1))


def find_neighbours(
    paths: Sequence[Path],
    classifier: Classifier,
    query: NDArray[Any],
    digest: bytes,
    *,
    names: Sequence[str],
) -> tuple[Photos, list[tuple[Neighbour, ...]]]:
    """Find the labelled images of each class that are nearest; the image itself is none of them.

    Parameters
    ----------
    paths : sequence of Path
        Features files with the head's layers.
    classifier : Classifier
    query : ndarray of float, shape (n_features,)
        The image's features.
    digest : bytes
        The image's row id.
    names : sequence of str
        Classes; of a regression, one that stands for all rows.

    Returns
    -------
    Photos
        Where the images lie.
    list of tuple of Neighbour
        Of each class, the nearest first.
    """
    with FeatureFiles(paths) as files:
        matrix = files.open_matrix([_find_layer(files, part) for part in classifier.parts])
        column = classifier.target
        targets, known = parse_targets(
            files.column(column), task=classifier.head.task, names=files.paths
        )
        others = known & is_other(files, digest)
        cosines = np.zeros(len(files))
        cosines[others] = measure_cosines(matrix, np.flatnonzero(others), query)
        return find_photos(files), [
            list_nearest(files, cosines, among=others & _has(targets, one), column=column, n=N_EACH)
            for one in names
        ]


def _find_layer(files: FeatureFiles, part: ClassifierPart) -> StoredLayer:
    """Find a layer of the recipe that the head was fitted on."""
    wanted = recipe_key(part.recipe)
    for layer in files.find_layers(part.layer):
        if recipe_key(layer.recipe) == wanted:
            return layer
    raise PipelineError(
        f"{files.name} has {part.layer} by another recipe than the head was fitted on; name the"
        " file that it was fitted on with --features"
    )


def _has(targets: Targets, name: str) -> NDArray[np.bool_]:
    """Return which rows are of a class."""
    if targets.task == CLASSIFICATION:
        return np.asarray(targets.values == name)
    if targets.task == MULTILABEL:
        return np.asarray(targets.values[:, targets.classes == name].any(axis=1))
    return np.ones(len(targets), np.bool_)
