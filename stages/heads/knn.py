"""The ``knn`` head: what the nearest training rows by cosine are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads.settings import choice, count_setting, layer_scale_setting, setting

METRIC = "cosine"
# scikit-learn holds this much of the distances from rows asked about to training rows.
DISTANCES_MIB = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnSettings:
    """Settings of nearest neighbours.

    Parameters
    ----------
    neighbors : int
        How many of the nearest training rows are asked.
    weights : {"uniform", "distance"}
        Every neighbour alike, or by the inverse of its distance, which is one minus the cosine.
    scale : {"l2", "none", "standard", "layer"}
        Rows to length 1 or nothing, which say the same to a cosine, columns to mean 0 and
        variance 1, or what comes from each layer to length 1.
    """

    neighbors: int = count_setting(5)
    weights: str = setting("uniform", choice("uniform", "distance"), "uniform or distance")
    scale: str = layer_scale_setting("l2")


def fit_knn(settings: KnnSettings, values: NDArray[Any], targets: Targets, *, seed: int) -> Any:
    """Return a KNeighborsClassifier, or a KNeighborsRegressor of a value or of tags as 0 and 1.

    The average of a tag over the neighbours is the share of those that have it. There is nothing
    to draw, so `seed` changes nothing.
    """
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    if settings.neighbors > len(values):
        raise InputError(
            f"knn cannot ask neighbors={settings.neighbors} of {len(values)} training rows; give"
            f" --set neighbors={len(values)} or fewer"
        )
    is_classification = targets.task == CLASSIFICATION
    make = KNeighborsClassifier if is_classification else KNeighborsRegressor
    truth = targets.values if is_classification else targets.values.astype(np.float64)
    return make(
        n_neighbors=settings.neighbors, weights=settings.weights, algorithm="brute", metric=METRIC
    ).fit(values, truth)


def ask_neighbors(estimator: Any, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the shares of the classes or tags, or the average value, among the neighbours.

    Returns
    -------
    ndarray of float64, shape (n_rows, n_outputs)
    """
    from sklearn import config_context

    with config_context(working_memory=DISTANCES_MIB):
        if hasattr(estimator, "predict_proba"):
            outputs = estimator.predict_proba(values)
        else:
            outputs = estimator.predict(values)
    return np.asarray(outputs, np.float64).reshape(len(values), -1)
