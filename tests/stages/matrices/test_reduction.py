"""Rows scaled and reduced against plain scikit-learn on the full matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.reduction import ScaledRows, scale_rows

SCALERS = {"standard": StandardScaler, "l2": Normalizer, "none": lambda: "passthrough"}
N_ROWS = 150
N_FEATURES = 3000
ROOM = {"memory_bytes": 10**9, "fit_bytes": 24}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: with two, L-BFGS on rows this few takes many times as long."""
    with threadpool_limits(1):
        yield


def widen(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Give rows 3,000 features, as a random layer with ReLU does: uncentred, many zeros."""
    weights = np.random.default_rng(seed).standard_normal((values.shape[1], N_FEATURES))
    return np.maximum(values @ weights / 20, 0).astype(np.float32)


def load_wide_digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, digits = load_digits(n_class=4, return_X_y=True)
    return widen(pixels[:N_ROWS] / 16), digits[:N_ROWS]


FEATURES, DIGITS = load_wide_digits()
ROWS = np.arange(N_ROWS)
FOLDS = [np.flatnonzero(fold != ROWS % 3) for fold in range(3)]


@pytest.fixture(autouse=True)
def _nothing_is_too_small_to_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows be reduced that scikit-learn can fit directly in no time, to be compared."""
    monkeypatch.setattr("permafrost.stages.matrices.budget.SMALL", 0)


@dataclass
class CountedMatrix:
    """Says how often it was read."""

    inner: ArrayMatrix
    n_passes: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    @property
    def key(self) -> str:
        return self.inner.key

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.n_passes += 1
        return self.inner.read(rows)

    def iterate_columns(self, rows: np.ndarray, *, n_bytes: int) -> Iterator[np.ndarray]:
        self.n_passes += 1
        return self.inner.iterate_columns(rows, n_bytes=n_bytes)


@dataclass
class DictStore:
    """Keeps arrays in memory."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def load(self, name: str) -> np.ndarray | None:
        return self.arrays[name].copy() if name in self.arrays else None

    def save(self, name: str, array: np.ndarray) -> None:
        assert int(name, 16)
        self.arrays[name] = array.copy()


def scale_all(
    features: np.ndarray, scale: str, trains: Sequence[np.ndarray] = FOLDS, **options: Any
) -> list[ScaledRows]:
    matrix, rows = ArrayMatrix(features), np.arange(len(features))
    options = {**ROOM, **options}
    return list(scale_rows(matrix, rows, scale=scale, trains=trains, **options))


def make_learner(name: str) -> Any:
    """Learners that go on until there is nothing left to gain."""
    return {
        "logreg": LogisticRegression(C=1.0, tol=1e-7, max_iter=100_000),
        "ridge": Ridge(alpha=3.0),
        "linear_svm": LinearSVC(C=0.01, tol=1e-6, max_iter=10_000, dual=True),
    }[name]


def assert_same_model(
    learner: str,
    scale: str,
    scaled: ScaledRows,
    train: np.ndarray,
    *,
    features: np.ndarray,
    digits: np.ndarray = DIGITS,
) -> None:
    """Compare a fit on reduced rows with scikit-learn's on all features, everywhere."""
    assert scaled.is_reduced
    direct = make_pipeline(SCALERS[scale](), make_learner(learner))
    full = features.astype(np.float64)
    direct.fit(full[train], digits[train])
    fitted = make_learner(learner).fit(scaled.values[train], digits[train])

    said = fitted.predict(scaled.values)
    wanted = np.atleast_2d(direct[-1].coef_)
    found = scaled.restore(np.atleast_2d(fitted.coef_))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    fitted.coef_ = found.reshape(direct[-1].coef_.shape)
    fitted.n_features_in_ = N_FEATURES
    restored = make_pipeline(scaled.scaler, fitted).predict(full)
    if learner == "ridge":
        np.testing.assert_allclose(said, direct.predict(full), atol=1e-4)
        np.testing.assert_allclose(restored, direct.predict(full), atol=1e-4)
    else:
        np.testing.assert_array_equal(said, direct.predict(full))
        np.testing.assert_array_equal(restored, direct.predict(full))


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("learner", ["logreg", "ridge", "linear_svm"])
def test_fits_on_reduced_rows_are_those_of_scikit_learn_on_all_features(
    learner: str, scale: str
) -> None:
    for train, scaled in zip(FOLDS, scale_all(FEATURES, scale), strict=True):
        assert scaled.values.shape[1] <= N_ROWS
        assert_same_model(learner, scale, scaled, train, features=FEATURES)


@pytest.mark.parametrize("scale", SCALERS)
def test_half_precision_features_give_the_same_model(scale: str) -> None:
    half = FEATURES.astype(np.float16)
    (scaled,) = scale_all(half, scale, FOLDS[:1])
    assert_same_model("logreg", scale, scaled, FOLDS[0], features=half)


@pytest.mark.parametrize("scale", SCALERS)
def test_rows_that_repeat_others_take_no_columns_and_change_no_weights(scale: str) -> None:
    repeated, digits = FEATURES[ROWS % 100], DIGITS[ROWS % 100]
    (scaled,) = scale_all(repeated, scale, FOLDS[:1])
    assert scaled.values.shape[1] <= 100
    assert_same_model("logreg", scale, scaled, FOLDS[0], features=repeated, digits=digits)


def test_a_regression_on_a_real_table_has_the_weights_of_scikit_learn() -> None:
    table, progress = load_diabetes(return_X_y=True)
    features, progress = widen(table[:N_ROWS] * 20, seed=1), progress[:N_ROWS]
    for train, scaled in zip(FOLDS, scale_all(features, "standard"), strict=True):
        direct = make_pipeline(StandardScaler(), Ridge(alpha=0.1)).fit(
            features[train].astype(np.float64), progress[train]
        )
        reduced = Ridge(alpha=0.1).fit(scaled.values[train], progress[train])
        np.testing.assert_allclose(
            scaled.restore(reduced.coef_[None])[0],
            direct[-1].coef_,
            atol=1e-3 * np.abs(direct[-1].coef_).max(),
        )
        np.testing.assert_allclose(
            reduced.predict(scaled.values), direct.predict(features.astype(np.float64)), rtol=1e-4
        )


@pytest.mark.parametrize("scale", SCALERS)
def test_reduced_rows_have_the_inner_products_of_the_scaled_rows(scale: str) -> None:
    for train, scaled in zip(FOLDS, scale_all(FEATURES, scale), strict=True):
        full = FEATURES.astype(np.float64)
        step = make_pipeline(SCALERS[scale]()).fit(full[train])
        products = step.transform(full) @ step.transform(full).T
        np.testing.assert_allclose(
            scaled.values @ scaled.values.T, products, atol=1e-10 * products.max()
        )


def test_the_scaler_is_the_one_that_scikit_learn_fits() -> None:
    train = FOLDS[1]
    features = FEATURES.copy()
    features[np.ix_(train, [7, 8])] = [0.0, 0.1]  # constant in training, not elsewhere
    (scaled,) = scale_all(features, "standard", [train])
    wanted = StandardScaler().fit(features[train].astype(np.float64))
    assert type(scaled.scaler) is StandardScaler
    assert scaled.scaler.scale_[[7, 8]].tolist() == [1.0, 1.0]
    assert scaled.scaler.n_samples_seen_ == wanted.n_samples_seen_
    assert scaled.scaler.n_features_in_ == wanted.n_features_in_
    for name in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(
            getattr(scaled.scaler, name), getattr(wanted, name), rtol=1e-10, atol=1e-15
        )
    assert_same_model("logreg", "standard", scaled, train, features=features)


def test_rows_are_taken_in_the_order_asked_for() -> None:
    matrix, rows = ArrayMatrix(FEATURES), np.random.default_rng(0).permutation(N_ROWS)[:90]
    train = np.arange(60)
    (scaled,) = scale_rows(matrix, rows, scale="standard", trains=[train], **ROOM)
    full = FEATURES[rows].astype(np.float64)
    wanted = StandardScaler().fit(full[train]).transform(full)
    np.testing.assert_array_equal(scaled.rows, rows)
    np.testing.assert_allclose(scaled.values @ scaled.values.T, wanted @ wanted.T, atol=1e-8)


@pytest.mark.parametrize("scale", SCALERS)
def test_kept_rows_are_not_read_again(scale: str) -> None:
    matrix, store = CountedMatrix(ArrayMatrix(FEATURES)), DictStore()
    options: dict[str, Any] = {"scale": scale, "store": store, **ROOM}
    first = list(scale_rows(matrix, ROWS, trains=FOLDS, **options))
    assert matrix.n_passes == 1
    again = list(scale_rows(matrix, ROWS, trains=FOLDS, **options))
    assert matrix.n_passes == 1
    weights = np.ones((2, first[0].values.shape[1]))
    for train, one, other in zip(FOLDS, first, again, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.restore(weights), other.restore(weights))
        assert_same_model("ridge", scale, other, train, features=FEATURES)


def test_kept_rows_are_of_one_matrix_its_rows_scale_and_training_set() -> None:
    store = DictStore()

    def count_passes(
        features: np.ndarray = FEATURES,
        rows: np.ndarray = ROWS,
        scale: str = "standard",
        train: np.ndarray = FOLDS[0],
    ) -> int:
        matrix = CountedMatrix(ArrayMatrix(features))
        options: dict[str, Any] = {"store": store, **ROOM}
        list(scale_rows(matrix, rows, scale=scale, trains=[train], **options))
        return matrix.n_passes

    assert count_passes() == 1
    assert count_passes(features=FEATURES + 1) == 1
    assert count_passes(rows=ROWS[::-1]) == 1
    assert count_passes(train=FOLDS[1]) == 1
    assert count_passes(scale="none") == 1
    assert count_passes(scale="none", train=FOLDS[1]) == 0
    assert count_passes(scale="l2") == 0
    assert count_passes() == 0


def test_what_a_killed_run_had_kept_is_used_and_only_the_rest_is_made() -> None:
    matrix, store = CountedMatrix(ArrayMatrix(FEATURES)), DictStore()
    options: dict[str, Any] = {"scale": "standard", "store": store, **ROOM}
    next(scale_rows(matrix, ROWS, trains=FOLDS, **options))
    kept = set(store.arrays)
    completed = list(scale_rows(matrix, ROWS, trains=FOLDS, **options))
    assert matrix.n_passes == 2
    assert kept < set(store.arrays)
    for train, scaled in zip(FOLDS, completed, strict=True):
        assert_same_model("ridge", "standard", scaled, train, features=FEATURES)


@pytest.mark.parametrize("scale", SCALERS)
def test_little_memory_means_more_passes_and_the_same_numbers(scale: str) -> None:
    matrix = CountedMatrix(ArrayMatrix(FEATURES))
    trains = FOLDS * 3
    room = {**ROOM, "memory_bytes": 2_000_000}
    little = scale_rows(matrix, ROWS, scale=scale, trains=trains, **room)
    for train, wanted, found in zip(trains, scale_all(FEATURES, scale) * 3, little, strict=True):
        products = wanted.values @ wanted.values.T
        np.testing.assert_allclose(
            found.values @ found.values.T, products, atol=1e-11 * products.max()
        )
        assert_same_model("ridge", scale, found, train, features=FEATURES)
    n_restored = len(trains)
    n_passes = matrix.n_passes - n_restored
    assert n_passes > 1 if scale == "standard" else n_passes == 1


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_narrow_rows_are_scaled_as_scikit_learn_does(scale: str, dtype: type) -> None:
    features = FEATURES[:, :64].astype(dtype)
    for train, scaled in zip(FOLDS, scale_all(features, scale), strict=True):
        step = make_pipeline(SCALERS[scale]()).fit(features[train].astype(np.float64))
        assert not scaled.is_reduced
        assert scaled.values.dtype == np.float32
        np.testing.assert_allclose(
            scaled.values, step.transform(features.astype(np.float64)), atol=1e-5
        )
        np.testing.assert_allclose(
            make_pipeline(scaled.scaler).transform(features.astype(np.float32)),
            scaled.values,
            atol=1e-5,
        )
        weights = np.ones((2, 64))
        np.testing.assert_array_equal(scaled.restore(weights), weights)


def test_learners_that_need_features_get_them_however_wide() -> None:
    (scaled,) = scale_all(FEATURES, "none", FOLDS[:1], may_reduce=False)
    assert not scaled.is_reduced
    np.testing.assert_array_equal(scaled.values, FEATURES)


def test_rows_are_reduced_where_the_features_do_not_fit() -> None:
    features = FEATURES[:, :500]
    (dense,) = scale_all(features, "none", FOLDS[:1])
    (reduced,) = scale_all(features, "none", FOLDS[:1], memory_bytes=1_800_000)
    assert (dense.is_reduced, reduced.is_reduced) == (False, True)
    products = features.astype(np.float64) @ features.T
    np.testing.assert_allclose(reduced.values @ reduced.values.T, products, rtol=1e-6)


@pytest.mark.parametrize("may_reduce", [True, False])
def test_too_little_memory_is_one_line_that_names_the_remedies(may_reduce: bool) -> None:
    matrix = CountedMatrix(ArrayMatrix(FEATURES[:, :200]))
    with pytest.raises(InputError) as caught:
        scale_rows(
            *(matrix, ROWS),
            scale="standard",
            trains=FOLDS,
            memory_bytes=100_000,
            fit_bytes=24,
            may_reduce=may_reduce,
        )
    line = str(caught.value)
    assert "150 rows of 200 features" in line
    assert "--memory 2MB" in line
    assert "--head sgd" in line
    assert "\n" not in line
    assert matrix.n_passes == 0


@pytest.mark.parametrize("shape", [(2000, 3000), (300, 2500)])
def test_the_memory_that_the_message_names_suffices(shape: tuple[int, int]) -> None:
    matrix, rows = ArrayMatrix(np.zeros(shape, np.float16)), np.arange(shape[0])
    options: dict[str, Any] = {"scale": "standard", "trains": [rows, rows], "fit_bytes": 24}
    with pytest.raises(InputError, match="--memory") as caught:
        scale_rows(matrix, rows, memory_bytes=10**6, **options)
    (megabytes,) = re.findall(r"--memory (\d+)MB", str(caught.value))
    enough = int(megabytes) * 10**6
    scale_rows(matrix, rows, memory_bytes=enough, **options)
    with pytest.raises(InputError):
        scale_rows(matrix, rows, memory_bytes=enough - 2 * 10**6, **options)


@pytest.mark.parametrize("width", [64, N_FEATURES])
@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_number(
    value: float, scale: str, width: int
) -> None:
    features = FEATURES[:, :width].copy()
    features[[31, 149], 5] = value
    with pytest.raises(InputError, match=r"2 of 150 rows .* NaN or infinity, the first is row 31;"):
        scale_all(features, scale)


def test_rows_of_zeros_alone_can_be_fitted() -> None:
    (scaled,) = scale_all(np.zeros((20, 100), np.float32), "none", [np.arange(10)])
    assert scaled.is_reduced
    np.testing.assert_array_equal(scaled.values, np.zeros((20, 1)))
    np.testing.assert_array_equal(scaled.restore(np.ones((1, 1))), np.zeros((1, 100)))


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown scale 'standrad'; did you mean 'standard'"):
        scale_all(FEATURES, "standrad")
