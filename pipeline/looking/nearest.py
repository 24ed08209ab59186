"""The images of each class that are most alike to one, by a head's own features."""

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

    def list_cells(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        return f"{self.similarity:.3f}", self.path, self.label, self.split


def find_neighbours(
    paths: Sequence[Path],
    classifier: Classifier,
    row: NDArray[Any],
    digest: bytes,
    *,
    names: Sequence[str],
) -> tuple[str, list[tuple[Neighbour, ...]]]:
    """Find the labelled images of each class that are nearest; the image itself is none of them.

    Parameters
    ----------
    paths : sequence of Path
        Features files with the head's layers.
    classifier : Classifier
    row : ndarray of float, shape (n_features,)
        The image's features.
    digest : bytes
        SHA-256 of the image file.
    names : sequence of str
        Classes; of a regression, one that stands for all rows.

    Returns
    -------
    str
        Where the images' paths start.
    list of tuple of Neighbour
        Of each class, the nearest first.
    """
    with FeatureFiles(paths) as files:
        matrix = files.open_matrix([_find_layer(files, part) for part in classifier.parts])
        column = files.column(classifier.target)
        targets, known = parse_targets(column, task=classifier.head.task, names=files.paths)
        itself = (files.digests == np.frombuffer(digest, np.uint8)).all(axis=1)
        rows = np.flatnonzero(known & ~itself)
        cosines = measure_cosines(matrix, rows, row)
        found = [
            tuple(
                Neighbour(
                    path=files.paths[rows[place]],
                    similarity=float(cosines[place]),
                    label=column[rows[place]],
                    split=str(files.splits[rows[place]]),
                )
                for place in find_largest(cosines, _has(targets, name)[rows], n=N_EACH)
            )
            for name in names
        ]
        return files.opened[0].place, found


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
