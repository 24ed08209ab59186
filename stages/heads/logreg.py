"""The ``logreg`` head: scikit-learn's multinomial logistic regression."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.heads.head import (
    HeadRecord,
    predict_by_batch,
    refuse_damage,
    write_record,
)
from stages.heads.scaling import SCALES_WANTED, fit_standard_scaler, parse_scale
from stages.heads.settings import choice, number, setting, whole

logger = logging.getLogger(__name__)

FILE_NAME = "head.skops"
TRUSTED_TYPES = [
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.Normalizer",
    "sklearn.preprocessing._data.StandardScaler",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogregSettings:
    """Settings of a logistic regression.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty.
    scale : {"standard", "l2", "none"}
        Columns to mean 0 and variance 1, rows to length 1, or nothing.
    class_weight : {"none", "balanced"}
        Every row alike, or every class alike.
    max_iter : int
        Most iterations of L-BFGS.
    """

    C: float = setting(1.0, number(lambda c: 0 < c < np.inf), "a number above 0")
    scale: str = setting("standard", parse_scale, SCALES_WANTED)
    class_weight: str = setting("none", choice("none", "balanced"), "none or balanced")
    max_iter: int = setting(1000, whole(1), "a whole number from 1 on")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogregHead:
    """A fitted logistic regression: a scikit-learn Pipeline of scaler and classifier."""

    kind: ClassVar[str] = "logreg"
    settings: LogregSettings
    pipeline: Any

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class names: sorted, shape (n_classes,)."""
        classes: NDArray[np.str_] = self.pipeline[-1].classes_
        return classes

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return int(self.pipeline[-1].n_features_in_)

    def predict_proba(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of every class for every row, as `Head` says."""
        return predict_by_batch(self, features, predict=self._predict_batch)

    def _predict_batch(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        # scikit-learn would take the softmax in float32, where 1 - p loses every p below 6e-8.
        scores = self.pipeline.decision_function(batch).astype(np.float64)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        odds: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        return odds

    def save(self, folder: Path) -> None:
        """Write `head.json` and the pipeline into `folder`."""
        import skops.io

        folder.mkdir(parents=True, exist_ok=True)
        skops.io.dump(self.pipeline, folder / FILE_NAME)
        write_record(folder, self, packages=("scikit-learn", "skops"))


def fit_logreg(
    settings: LogregSettings, features: NDArray[Any], labels: NDArray[np.str_], *, seed: int
) -> LogregHead:
    """Fit a logistic regression; L-BFGS starts at zero, so `seed` changes nothing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    matrix = features.astype(np.float32)  # our own copy: it is scaled in place
    scaler = _fit_scaler(settings.scale, matrix)
    classifier = LogisticRegression(
        C=settings.C,
        class_weight=None if settings.class_weight == "none" else settings.class_weight,
        max_iter=settings.max_iter,
        random_state=seed,
    )
    _fit_quietly(classifier, matrix, labels)
    pipeline = Pipeline([("scaler", scaler), ("classifier", classifier)])
    return LogregHead(settings=settings, pipeline=pipeline)


def _fit_scaler(scale: str, matrix: NDArray[np.float32]) -> Any:
    """Return a Pipeline step fitted on `matrix`, which is scaled in place."""
    from sklearn.preprocessing import Normalizer

    if scale == "none":
        return "passthrough"
    scaler = fit_standard_scaler(matrix) if scale == "standard" else Normalizer().fit(matrix)
    scaler.transform(matrix, copy=False)
    return scaler


def _fit_quietly(classifier: Any, matrix: NDArray[np.float32], labels: NDArray[np.str_]) -> None:
    """Fit, and say once and clearly when the iterations ran out."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(matrix, labels)
    if classifier.n_iter_.max() >= classifier.max_iter:
        logger.warning(
            "logreg has not converged after max_iter=%d iterations; raise it with"
            " --set max_iter=%d, or scale the features",
            classifier.max_iter,
            classifier.max_iter * 4,
        )


def load_logreg(folder: Path, settings: LogregSettings, record: HeadRecord) -> LogregHead:
    """Load what `LogregHead.save` wrote; anything else in the file is an InputError."""
    import skops.io

    with refuse_damage(folder):
        pipeline = skops.io.load(folder / FILE_NAME, trusted=TRUSTED_TYPES)
        _check_pipeline(pipeline, settings.scale)
        head = LogregHead(settings=settings, pipeline=pipeline)
        head.predict_proba(np.zeros((1, record.n_features), np.float32))
        if not np.array_equal(head.classes, record.classes):
            raise ValueError(f"{FILE_NAME} and head.json are not of one head")
        return head


def _check_pipeline(pipeline: Any, scale: str) -> None:
    """Refuse what is not ours: skops itself trusts every estimator of scikit-learn."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    scaler = {"standard": StandardScaler, "l2": Normalizer, "none": str}[scale]
    if type(pipeline) is not Pipeline or [type(step) for _, step in pipeline.steps] != [
        scaler,
        LogisticRegression,
    ]:
        raise TypeError(f"{FILE_NAME} holds something else than a scaler and a classifier")
