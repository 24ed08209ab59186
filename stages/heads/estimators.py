"""Heads that scikit-learn fits on scaled rows in memory, and that are saved with skops.

Many settings are fitted on one scaled, maybe reduced matrix; whichever is kept becomes a head of
the full width with its scaler in front. Linear ones predict from their weights alone, in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION
from permafrost.stages.frameworks.weights_file import check_archive
from permafrost.stages.heads.head import Head, HeadFacts, HeadRecord, LinearForm, refuse_damage
from permafrost.stages.heads.knn import METRIC, ask_neighbors
from permafrost.stages.heads.linear import list_parts
from permafrost.stages.matrices.reduction import ScaledRows
from permafrost.stages.matrices.scaling import scale_layers

FILE_NAME = "head.skops"
LINKS = {CLASSIFICATION: "softmax", MULTILABEL: "sigmoid", REGRESSION: "identity"}
SCALER_TYPES = {"standard": "StandardScaler", "l2": "Normalizer", "none": "str", "layer": "str"}
ESTIMATOR_TYPES = {
    "logreg": ["LogisticRegression"],
    "linear_svm": ["LinearSVC"],
    "ridge": ["RidgeClassifier", "Ridge"],
    "knn": ["KNeighborsClassifier", "KNeighborsRegressor"],
    "nearest_mean": ["LinearDiscriminantAnalysis"],
    "sgd": ["LogisticRegression", "Ridge"],
    "head2toe": ["LogisticRegression", "Ridge"],
    "zero_shot": ["LogisticRegression"],
}

Predictor = Callable[[NDArray[Any]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedEstimator(HeadFacts):
    """What was fitted on scaled rows, which may have been reduced to fewer columns.

    Attributes
    ----------
    estimator : object
        scikit-learn's.
    """

    estimator: Any

    def predict(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the outputs of `stages.heads.Head.predict` for rows that are scaled already.

        Parameters
        ----------
        values : ndarray of float32 or float64, shape (n_rows, n_columns)
        """
        return self.finish(make_predictor(self.estimator, self.task)(values))

    def to_head(self, scaled: ScaledRows) -> EstimatorHead:
        """Return the head for raw features of the full width.

        Parameters
        ----------
        scaled : ScaledRows
            Those that this was fitted on.
        """
        from sklearn.pipeline import Pipeline

        estimator = widen(self.estimator, scaled.restore) if scaled.is_reduced else self.estimator
        return EstimatorHead(
            **self.facts,
            pipeline=Pipeline([("scaler", scaled.scaler), ("estimator", estimator)]),
            widths=scaled.widths,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorHead(Head):
    """A head for raw features: a scikit-learn Pipeline of scaler and estimator.

    What the outputs of a classification or multilabel task are worth depends on the kind.
    ``logreg``: the probabilities that it was fitted to. ``linear_svm`` and ``ridge``: the softmax
    or sigmoid of decision values, which rank rightly but are not calibrated. ``knn``: shares of
    the neighbours. ``nearest_mean``: those of Gaussians, see `fit_nearest_mean`.
    ``zero_shot``: those of the model that the texts are compared by.
    """

    pipeline: Any

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return int(self.pipeline[-1].n_features_in_)

    def make_predictor(self) -> Predictor:
        """Return the function from a batch of rows to outputs."""
        predict = make_predictor(self.pipeline[-1], self.task)
        return lambda batch: predict(self._scale(batch))

    def _scale(self, batch: NDArray[Any]) -> NDArray[Any]:
        scaler = self.pipeline[0]
        if self.widths:
            return scale_layers(batch, self.widths)
        scaled: NDArray[Any] = batch if scaler == "passthrough" else scaler.transform(batch)
        return scaled

    def linear_form(self) -> LinearForm | None:
        """Return scaling, weights and link, before calibration; None for knn."""
        if not _is_linear(self.pipeline[-1]):
            return None
        scaler = self.pipeline[0]
        is_standard = self.settings.scale == "standard"
        weights, bias = read_weights(self.pipeline[-1], self.task)
        return LinearForm(
            scale=self.settings.scale,
            mean=scaler.mean_ if is_standard else None,
            std=scaler.scale_ if is_standard else None,
            weights=weights,
            bias=bias,
            link=LINKS[self.task],
        )

    def write_fitted(self, folder: Path) -> Sequence[str]:
        """Write the pipeline."""
        import skops.io

        skops.io.dump(self.pipeline, folder / FILE_NAME)
        return "scikit-learn", "skops"


def make_predictor(estimator: Any, task: str) -> Predictor:
    """Return the function from scaled rows to outputs of shape (n_rows, n_outputs)."""
    if not _is_linear(estimator):
        return partial(ask_neighbors, estimator)
    weights, bias = read_weights(estimator, task)
    # scikit-learn would take the softmax in float32, where 1 - p loses every p below 6e-8.
    return lambda values: apply_link(values @ weights + bias, LINKS[task])


def apply_link(scores: NDArray[np.float64], link: str) -> NDArray[np.float64]:
    """Turn scores, shape (n_rows, n_outputs), into outputs by one of `LINKS`."""
    if link == "softmax":
        odds: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        return odds
    if link == "sigmoid":
        probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0, -scores))
        return probabilities
    return scores


def _is_linear(estimator: Any) -> bool:
    return all(hasattr(part, "coef_") for part in list_parts(estimator))


def read_weights(estimator: Any, task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights, shape (n_features, n_outputs), and bias, shape (n_outputs,)."""
    parts = list_parts(estimator)
    weights = np.vstack([part.coef_ for part in parts]).astype(np.float64)
    bias = np.hstack([part.intercept_ for part in parts]).astype(np.float64)
    if task == CLASSIFICATION and len(weights) == 1:
        # The first of two classes scores 0, the second what scikit-learn decides by.
        weights, bias = np.vstack([0 * weights, weights]), np.hstack([0, bias])
    return weights.T, bias


def widen(estimator: Any, restore: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Any:
    """Return a copy of a linear `estimator` whose weights have the full width."""
    wide = copy.deepcopy(estimator)
    parts = list_parts(wide)
    narrow = [part.coef_ for part in parts]
    # All at once, since restoring is a pass over the whole matrix.
    restored = restore(np.vstack(narrow).astype(np.float64))
    heights = np.cumsum([len(np.atleast_2d(one)) for one in narrow])
    for part, one, rows in zip(parts, narrow, np.split(restored, heights[:-1]), strict=True):
        part.coef_ = rows.reshape(*one.shape[:-1], -1)
        part.n_features_in_ = rows.shape[1]
    wide.n_features_in_ = restored.shape[1]
    return wide


def load_estimator(folder: Path, record: HeadRecord) -> EstimatorHead:
    """Load what `EstimatorHead.save` wrote; anything else in the file is an InputError."""
    import skops.io

    with refuse_damage(folder):
        check_archive(folder / FILE_NAME)
        pipeline = skops.io.load(folder / FILE_NAME)
        _check_types(pipeline, record.settings.scale, record.kind)
        if pipeline[-1].n_features_in_ != record.n_features:
            raise ValueError(f"{FILE_NAME} and head.json differ in the number of features")
        wanted = record.n_features if record.settings.scale == "layer" else 0
        if sum(record.widths) != wanted or min(record.widths, default=1) < 1:
            raise ValueError("head.json says other widths of layers than its features have")
        head = EstimatorHead(**record.facts, pipeline=pipeline, widths=record.widths)
        n_outputs = head.predict(np.zeros((1, record.n_features), np.float32)).shape[1]
        named = getattr(pipeline[-1], "classes_", record.classes)
        is_same = record.task != CLASSIFICATION or np.array_equal(named, record.classes)
        if not is_same or n_outputs != max(1, len(record.classes)):
            raise ValueError(f"{FILE_NAME} and head.json are not of one head")
        return head


def _check_types(pipeline: Any, scale: str, kind: str) -> None:
    """Refuse what is not ours: skops itself trusts every estimator of scikit-learn."""
    if _name_type(pipeline) != "Pipeline" or len(pipeline.steps) != 2:
        raise TypeError(f"{FILE_NAME} holds something else than a scaler and an estimator")
    scaler, estimator = pipeline[0], pipeline[-1]
    if _name_type(scaler) != SCALER_TYPES[scale]:
        raise TypeError(f"{FILE_NAME} holds another scaler than head.json says")
    parts = list_parts(estimator) if _name_type(estimator) == "OneVsRestClassifier" else [estimator]
    if not parts or any(_name_type(part) not in ESTIMATOR_TYPES[kind] for part in parts):
        raise TypeError(f"{FILE_NAME} holds another estimator than head.json says")
    if kind == "knn" and {estimator.metric, estimator.effective_metric_} != {METRIC}:
        raise ValueError(f"{FILE_NAME} compares rows by something else than their {METRIC}")


def _name_type(value: object) -> str:
    return type(value).__name__
