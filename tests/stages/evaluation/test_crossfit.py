"""Many candidates on one matrix: what they say is what plain scikit-learn says of each fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.evaluation.crossfit import Trial, collect_outputs, cross_fit
from permafrost.stages.evaluation.fold_task import Candidate, FoldOutputs
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.evaluation.processes import Workers
from permafrost.stages.heads import parse_settings
from permafrost.stages.matrices.budget import Budget
from permafrost.stages.matrices.matrix import ArrayMatrix

PIXELS, DIGITS = load_digits(n_class=3, return_X_y=True)
FEATURES = (PIXELS / 16).astype(np.float32)
NAMES = np.array(["nought", "one", "two"])[DIGITS]
TARGETS = Targets(task=CLASSIFICATION, values=NAMES, classes=np.unique(NAMES))
# Not all rows, and not in order: as where a test split is left out.
GROUPS = np.arange(len(NAMES))
ROWS = np.random.default_rng(0).permutation(len(NAMES))[:300]
SPLIT = np.arange(len(ROWS)) % 3
FOLDS = [Fold(np.flatnonzero(i != SPLIT), np.flatnonzero(i == SPLIT)) for i in range(3)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: with two, L-BFGS on rows this few takes many times as long."""
    with threadpool_limits(1):
        yield


class OpenMatrix(ArrayMatrix):
    """Cannot be sent to another process, as a matrix of an open file cannot."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an open file cannot be pickled")


def widen(features: np.ndarray) -> np.ndarray:
    """Repeat each column, a little weaker each time: wide, and as telling as before."""
    return np.hstack([features * np.float32(0.9**power) for power in range(40)])


def plan(features: np.ndarray = FEATURES, **changes: Any) -> Trial:
    options: dict[str, Any] = {"seed": 0, "memory_bytes": 10**9, **changes}
    return Trial(
        matrix=OpenMatrix(features),
        targets=TARGETS,
        groups=GROUPS,
        rows=ROWS,
        folds=FOLDS,
        **options,
    )


def name(*kinds: str, **settings: object) -> list[Candidate]:
    return [Candidate(kind=kind, settings=parse_settings(kind, settings)) for kind in kinds]


def collect(found: Sequence[FoldOutputs], number: int, trial: Trial) -> np.ndarray:
    mine = [one for one in found if one.candidate == number]
    assert sorted(one.fold for one in mine) == [0, 1, 2]
    assert not any(one.error for one in mine)
    return collect_outputs(mine, trial)


def predict_plainly(features: np.ndarray, strength: float) -> np.ndarray:
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-7, max_iter=9999))
    rows = features[ROWS].astype(np.float64)
    split = PredefinedSplit(SPLIT)
    return cross_val_predict(plain, rows, NAMES[ROWS], cv=split, method="predict_proba")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("is_wide", [False, True])
def test_outputs_are_those_of_scikit_learn_on_each_fold(
    is_wide: bool, n_jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.stages.matrices.budget.SMALL", 0)
    features = widen(FEATURES) if is_wide else FEATURES
    strengths = (0.001, 0.1)
    candidates = [*name("sgd"), *(name("logreg", C=c, tol=1e-7)[0] for c in strengths)]
    with Workers(tmp_path) as workers:
        trial = plan(features, n_jobs=n_jobs, workers=workers)
        found = list(cross_fit(candidates, trial))
    for number, strength in enumerate(strengths, start=1):
        np.testing.assert_allclose(
            collect(found, number, trial), predict_plainly(features, strength), atol=1e-3
        )
    said = TARGETS.classes[collect(found, 0, trial).argmax(axis=1)]
    assert (said == NAMES[ROWS]).mean() > 0.97


def test_only_what_is_wanted_is_fitted() -> None:
    wanted = [(0, 2), (1, 0)]
    found = cross_fit(name("nearest_mean", "ridge"), plan(), wanted=wanted)
    assert sorted((one.candidate, one.fold) for one in found) == wanted


def test_a_head_that_memory_has_no_room_for_fails_alone() -> None:
    trial = plan(memory_bytes=500_000)
    found = list(cross_fit(name("logreg", "ridge", "sgd"), trial))
    for number in (0, 2):
        assert collect(found, number, trial).shape == (300, 3)
    failed = [one for one in found if one.candidate == 1]
    assert len(failed) == 3
    for one in failed:
        assert "300 rows of 64 features takes 730KB, more than the 500KB" in one.error
        assert one.outputs.shape[0] == 0


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
def test_there_are_as_many_processes_as_memory_has_room_for(n_jobs: int) -> None:
    def count(memory_bytes: int, *, is_reduced: bool) -> int:
        budget = Budget(n_rows=1000, n_features=2000, fit_bytes=2, memory_bytes=memory_bytes)
        return budget.count_jobs(is_reduced=is_reduced)

    # The float32 rows, and for each a scaled copy, a training set and what a fit adds.
    dense = 1000 * 2000 * (4 + n_jobs * (4 + 4 + 2))
    assert (count(dense, is_reduced=False), count(dense - 1, is_reduced=False)) == (
        n_jobs,
        max(1, n_jobs - 1),
    )
    # The same in float64, the inner products, and a quarter of the memory for blocks of columns.
    reduced = (1000**2 * (8 + 8 + n_jobs * (8 + 8 + 2)) + 2000 * 16) * 4 // 3
    assert (count(reduced + 4, is_reduced=True), count(reduced - 4, is_reduced=True)) == (
        n_jobs,
        max(1, n_jobs - 1),
    )
