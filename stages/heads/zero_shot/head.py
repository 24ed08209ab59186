"""The ``zero_shot`` head: nothing is trained, the classes are what their names mean to a model.

A. Radford et al., "Learning transferable visual models from natural language supervision", ICML
2021: each class is the mean of the text embeddings of sentences about it, and its cosine with an
image's embedding, times a scale that the model has learnt, is its logit. X. Zhai et al., "Sigmoid
loss for language image pre-training", ICCV 2023, add a bias, and judge each class by itself; where
one class of several is true, a bias of all of them changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import MULTILABEL
from permafrost.stages.errors import InputError
from permafrost.stages.heads.estimators import EstimatorHead
from permafrost.stages.heads.fit_rows import FitRows
from permafrost.stages.heads.linear import assemble
from permafrost.stages.heads.zero_shot.prompts import ZeroShotSettings, write_prompts
from permafrost.stages.matrices.matrix import TextEmbeddings, require_texts

KIND = "zero_shot"


def fit_zero_shot(settings: ZeroShotSettings, rows: FitRows) -> EstimatorHead:
    """Return a linear head of rows of length 1, whose weights are the classes' embeddings.

    It looks at no row: of the training rows it takes which classes there are.

    Raises
    ------
    InputError
        The rows are no image embeddings of a model with a text tower, or tags are asked of one
        that tells classes apart and judges none by itself.
    StageError
        The backbone cannot be had any more, or a name is given to what is no class.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer

    above = require_texts(rows.matrix.origin, KIND)
    targets, n_features = rows.targets, rows.matrix.shape[1]
    names = targets.classes.tolist()
    # All classes, and not those of these rows: it is the same for every fold, and computed once.
    found = above.embed_texts(write_prompts(settings, names))
    if found.vectors.shape[1] != n_features:
        raise InputError(
            f"the texts' embeddings have {found.vectors.shape[1]} values and the images'"
            f" {n_features}; extract image_embedding again"
        )
    weights, classes = found.scale * _average(found.vectors, len(names)), targets.classes
    bias = np.zeros(len(weights))
    if targets.task == MULTILABEL:
        bias += _find_bias(found)
    else:
        # A bias of all classes changes nothing.
        classes = np.unique(targets.select(rows.train).values)
        weights = weights[np.searchsorted(targets.classes, classes)]
        if len(classes) == 2:
            weights = np.diff(weights, axis=0)
        bias = bias[: len(weights)]
    estimator = assemble(targets.task, weights, bias, classes=classes, truth=targets.values)
    scaler = Normalizer().fit(np.zeros((1, n_features)))
    return EstimatorHead(
        kind=KIND,
        settings=settings,
        task=targets.task,
        classes=classes,
        pipeline=Pipeline([("scaler", scaler), ("estimator", estimator)]),
    )


def _average(vectors: NDArray[np.float32], n_classes: int) -> NDArray[np.float64]:
    """Return the direction of each class, of length 1: shape (n_classes, n_features)."""
    each = _normalise(vectors.astype(np.float64)).reshape(n_classes, -1, vectors.shape[1])
    return _normalise(each.mean(axis=1))


def _normalise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.where(lengths == 0, 1, lengths)
    return scaled


def _find_bias(found: TextEmbeddings) -> float:
    if found.bias is None:
        raise InputError(
            "zero_shot does multilabel with a model of SigLIP's: this one tells classes apart, and"
            " does not say how probable each is by itself; use --task classification or logreg"
        )
    return found.bias
