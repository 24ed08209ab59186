from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads import HEADS, fit_estimator, fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.reduction import ScaledRows

DIGITS, DIABETES = load_digits(), load_diabetes()
SMALL = DIGITS.data.astype(np.float32) / 16
# 64 pixels, their squares and products: far more columns than rows.
WIDE = PolynomialFeatures(2, include_bias=False).fit_transform(SMALL[:200]).astype(np.float32)
EVEN, PRIME, LOOP = (
    np.isin(DIGITS.target, digits) for digits in ([0, 2, 4, 6, 8], [2, 3, 5, 7], [0, 6, 8, 9])
)
TAGS = np.array(["even", "has a loop", "prime"])
NOTHING = np.empty(0, np.str_)


def classes_of(names):
    return Targets(task="classification", values=names, classes=np.unique(names))


DIGIT_TARGETS = {
    "classification": classes_of(np.array([f"digit {n}" for n in DIGITS.target])),
    "multilabel": Targets(
        task="multilabel", values=np.column_stack([EVEN, LOOP, PRIME]), classes=TAGS
    ),
    "regression": Targets(
        task="regression", values=DIGITS.target.astype(np.float64), classes=NOTHING
    ),
}
PARITY = classes_of(np.where(EVEN, "even", "odd"))
SCALERS = {"standard": StandardScaler, "l2": Normalizer, "none": lambda: "passthrough"}
SCALES = pytest.mark.parametrize("scale", SCALERS)
PLAIN = {
    ("logreg", "classification"): LogisticRegression(C=0.5, max_iter=1000),
    ("logreg", "multilabel"): OneVsRestClassifier(LogisticRegression(C=0.5, max_iter=1000)),
    ("linear_svm", "classification"): LinearSVC(C=0.1),
    ("linear_svm", "multilabel"): OneVsRestClassifier(LinearSVC(C=0.1)),
    ("ridge", "classification"): RidgeClassifier(alpha=2),
    ("ridge", "multilabel"): RidgeClassifier(alpha=2),
    ("ridge", "regression"): Ridge(alpha=2),
    ("knn", "classification"): KNeighborsClassifier(3, metric="cosine", weights="distance"),
    ("knn", "multilabel"): KNeighborsClassifier(3, metric="cosine", weights="distance"),
    ("knn", "regression"): KNeighborsRegressor(3, metric="cosine", weights="distance"),
    ("nearest_mean", "classification"): NearestCentroid(),
}
SETTINGS = {
    "logreg": {"C": 0.5},
    "linear_svm": {"C": 0.1},
    "ridge": {"alpha": 2},
    "knn": {"neighbors": 3, "weights": "distance"},
    "nearest_mean": {},
}
CASES = pytest.mark.parametrize(("kind", "task"), PLAIN)
TRAIN, TEST = np.arange(0, 600), np.arange(600, 1000)

# scikit-learn's NearestCentroid on pixels that are always blank.
pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")


@pytest.fixture(autouse=True)
def one_thread():
    """Keep plain scikit-learn's many small products from waiting for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield


def fit(kind, targets, *, x=SMALL, train=TRAIN, **settings):
    parsed = parse_settings(kind, settings)
    return fit_head(kind, parsed, ArrayMatrix(x), targets, train=train, seed=0)


def fit_plain(estimator, scale, targets, *, x=SMALL, train=TRAIN):
    truth = targets.values[train]
    if targets.task == "multilabel":  # RidgeClassifier takes a True for something else than a 1
        truth = truth.astype(np.int64)
    return make_pipeline(SCALERS[scale](), estimator).fit(x[train], truth)


def decide(head, outputs):
    if head.task == "classification":
        return head.classes[outputs.argmax(axis=1)]
    return outputs > 0.5 if head.task == "multilabel" else outputs[:, 0]


def test_every_estimator_is_compared_with_scikit_learn_for_each_of_its_tasks():
    estimators = {name: kind for name, kind in HEADS.items() if kind.is_estimator}
    assert set(PLAIN) == {(name, task) for name, kind in estimators.items() for task in kind.tasks}


# Equal to plain scikit-learn


@CASES
@SCALES
def test_decisions_are_those_of_plain_scikit_learn(kind, task, scale):
    targets = DIGIT_TARGETS[task]
    plain = fit_plain(PLAIN[kind, task], scale, targets).predict(SMALL[TEST])
    head = fit(kind, targets, scale=scale, **SETTINGS[kind])
    decided = decide(head, head.predict(SMALL[TEST]))
    if task == "regression":
        np.testing.assert_allclose(decided, plain, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(decided, plain)


@pytest.mark.parametrize("kind", ["logreg", "knn"])
@pytest.mark.parametrize("task", ["classification", "multilabel"])
@SCALES
def test_probabilities_are_those_of_plain_scikit_learn(kind, task, scale):
    targets = DIGIT_TARGETS[task]
    plain = fit_plain(PLAIN[kind, task], scale, targets).predict_proba(SMALL[TEST])
    if isinstance(plain, list):  # one array a tag: of not having and of having it
        plain = np.column_stack([one[:, 1] for one in plain])
    outputs = fit(kind, targets, scale=scale, **SETTINGS[kind]).predict(SMALL[TEST])
    np.testing.assert_allclose(outputs, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["logreg", "linear_svm", "ridge", "knn", "nearest_mean"])
def test_two_classes_are_decided_as_by_plain_scikit_learn(kind):
    plain = fit_plain(PLAIN[kind, "classification"], "standard", PARITY)
    head = fit(kind, PARITY, scale="standard", **SETTINGS[kind])
    outputs = head.predict(SMALL[TEST])
    np.testing.assert_array_equal(decide(head, outputs), plain.predict(SMALL[TEST]))
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-12)


def test_a_binary_logreg_keeps_probabilities_that_float32_would_round_away():
    two = np.flatnonzero(DIGITS.target < 2)
    targets = classes_of(DIGITS.target.astype(str))
    head = fit("logreg", targets, train=two, C=100)
    plain = fit_plain(LogisticRegression(C=100), "standard", targets, train=two)
    far = SMALL[two] * 8
    margins = plain.decision_function(far).astype(np.float64)
    assert margins.max() > 20
    expected = np.column_stack([-np.logaddexp(0, margins), -np.logaddexp(0, -margins)])
    np.testing.assert_allclose(np.log(head.predict(far)), expected, rtol=1e-3, atol=1e-3)


def test_ridge_predicts_the_progress_of_diabetes_as_scikit_learn_does():
    x, train, test = DIABETES.data.astype(np.float32), np.arange(300), np.arange(300, 442)
    targets = Targets(task="regression", values=DIABETES.target, classes=NOTHING)
    plain = make_pipeline(StandardScaler(), Ridge(alpha=3)).fit(x[train], targets.values[train])
    outputs = fit("ridge", targets, x=x, train=train, alpha=3).predict(x[test])
    np.testing.assert_allclose(outputs[:, 0], plain.predict(x[test]), rtol=1e-5)
    assert plain.score(x[test], targets.values[test]) > 0.4


def test_float32_features_do_not_cost_a_ridge_its_weak_directions():
    values = StandardScaler().fit(WIDE[:150]).transform(WIDE)
    targets = DIGIT_TARGETS["regression"].select(np.arange(150))
    plain = Ridge(alpha=1e-3).fit(values[:150].astype(np.float64), targets.values)
    settings = parse_settings("ridge", {"alpha": 1e-3})
    fitted = fit_estimator("ridge", settings, values[:150], targets, seed=0)
    assert values.dtype == np.float32
    np.testing.assert_allclose(fitted.predict(values)[:, 0], plain.predict(values), atol=1e-6)


def test_nearest_mean_is_a_discriminant_of_one_spherical_gaussian():
    targets = DIGIT_TARGETS["classification"]
    names, x = targets.values[TRAIN], SMALL[TRAIN].astype(np.float64)
    means = np.stack([x[names == name].mean(axis=0) for name in targets.classes])
    # Nine directions tell ten means apart; the rest of the 64 says nothing of the class.
    _, _, directions = np.linalg.svd(means - means.mean(axis=0))
    residuals = (x - means[np.searchsorted(targets.classes, names)]) @ directions[:9].T
    variance = np.square(residuals).sum() / (9 * (len(x) - 10))
    distances = np.square(SMALL[TEST][:, None] - means).sum(axis=2)
    odds = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / (2 * variance))
    expected = odds / odds.sum(axis=1, keepdims=True)
    outputs = fit("nearest_mean", targets, scale="none").predict(SMALL[TEST])
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_nearest_mean_of_one_row_a_class_is_sure_and_finite():
    targets = DIGIT_TARGETS["classification"]
    head = fit("nearest_mean", targets, train=np.arange(10))
    np.testing.assert_allclose(head.predict(SMALL[:10]), np.eye(10), atol=1e-9)


def test_nearest_mean_cannot_tell_classes_of_one_mean_apart():
    x = np.tile(SMALL[:8], (2, 1))
    targets = classes_of(np.repeat(["a", "b"], 8))
    outputs = fit("nearest_mean", targets, x=x, train=np.arange(16), scale="none").predict(x)
    np.testing.assert_allclose(outputs, 0.5, atol=1e-6)


def test_a_saved_nearest_mean_gives_its_probabilities_in_plain_scikit_learn():
    for targets in (PARITY, DIGIT_TARGETS["classification"]):
        head = fit("nearest_mean", targets)
        assert type(head.pipeline[-1]) is LinearDiscriminantAnalysis
        plain = head.pipeline.predict_proba(SMALL[TEST])
        np.testing.assert_allclose(head.predict(SMALL[TEST]), plain, rtol=0, atol=1e-5)


# Weights, iterations, constant tags


@pytest.mark.parametrize(
    ("kind", "make"),
    [("logreg", LogisticRegression), ("linear_svm", LinearSVC), ("ridge", RidgeClassifier)],
)
@pytest.mark.parametrize("weights", ["balanced", {"digit 3": 5.0, "digit 8": 0.2}])
def test_class_weights_are_those_of_scikit_learn(kind, make, weights):
    targets = DIGIT_TARGETS["classification"]
    given = weights
    if weights != "balanced":
        given = dict.fromkeys(targets.classes.tolist(), 1.0) | weights
    plain = fit_plain(make(class_weight=given), "standard", targets)
    head = fit(kind, targets, class_weight=weights)
    np.testing.assert_array_equal(
        decide(head, head.predict(SMALL[TEST])), plain.predict(SMALL[TEST])
    )


def test_the_weight_of_a_class_without_training_rows_changes_nothing():
    targets, train = DIGIT_TARGETS["classification"], np.flatnonzero(DIGITS.target < 5)
    weighed = fit("logreg", targets, train=train, class_weight="digit 7:9")
    assert weighed.classes.tolist() == [f"digit {n}" for n in range(5)]
    plain = fit("logreg", targets, train=train)
    np.testing.assert_array_equal(weighed.predict(SMALL), plain.predict(SMALL))


def test_the_weight_of_a_tag_is_that_of_the_rows_that_have_it():
    targets = DIGIT_TARGETS["multilabel"]
    outputs = fit("logreg", targets, class_weight={"prime": 4}).predict(SMALL[TEST])
    x = StandardScaler().fit(SMALL[TRAIN]).transform(SMALL)
    for column, truth, weight in zip(outputs.T, targets.values.T, [1, 1, 4], strict=True):
        plain = LogisticRegression(class_weight={False: 1, True: weight})
        plain.fit(x[TRAIN], truth[TRAIN])
        np.testing.assert_allclose(column, plain.predict_proba(x[TEST])[:, 1], atol=2e-5)


@pytest.mark.parametrize("kind", ["logreg", "linear_svm", "ridge", "knn"])
def test_a_tag_that_all_or_no_training_rows_have_is_predicted_as_that(kind):
    never, always = np.zeros(len(SMALL), bool), np.ones(len(SMALL), bool)
    tags = np.column_stack([always, never, PRIME])
    targets = Targets(task="multilabel", values=tags, classes=np.array(["a", "n", "prime"]))
    outputs = fit(kind, targets, scale="l2").predict(SMALL[TEST])
    if kind == "knn":
        np.testing.assert_allclose(outputs[:, :2], [[1, 0]] * len(TEST))
    else:  # 601 to 1: Laplace's odds after 600 rows that were all alike
        np.testing.assert_allclose(outputs[:, :2], [[601 / 602, 1 / 602]] * len(TEST))
    alone = Targets(task="multilabel", values=tags[:, 2:], classes=np.array(["prime"]))
    single = fit(kind, alone, scale="l2").predict(SMALL[TEST])
    np.testing.assert_allclose(single, outputs[:, 2:], rtol=1e-6)


@pytest.mark.parametrize("kind", ["logreg", "linear_svm"])
def test_too_few_iterations_are_logged_not_warned(kind, caplog, recwarn):
    fit(kind, DIGIT_TARGETS["classification"], max_iter=1)
    assert [
        r.message
        for r in caplog.records
        if f"{kind} has not converged after max_iter=1" in r.message
    ]
    assert not [w for w in recwarn if "converge" in str(w.message)]


# Linear forms


@CASES
@SCALES
def test_a_linear_form_gives_the_outputs_in_plain_numpy(kind, task, scale):
    for targets in (DIGIT_TARGETS[task], *([PARITY] if task == "classification" else [])):
        head = fit(kind, targets, scale=scale)
        form = head.linear_form()
        if kind == "knn":
            assert form is None
            return
        x = SMALL[TEST].astype(np.float64)
        if form.scale == "standard":
            x = (x - form.mean) / form.std
        elif form.scale == "l2":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = x @ form.weights + form.bias
        links = {
            "softmax": lambda s: np.exp(s) / np.exp(s).sum(axis=1, keepdims=True),
            "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
            "identity": lambda s: s,
        }
        assert form.scale == scale
        outputs = head.predict(SMALL[TEST])
        assert form.weights.shape == (64, outputs.shape[1])
        np.testing.assert_allclose(links[form.link](scores), outputs, rtol=1e-4, atol=1e-5)


# Reduced rows


def reduce(values, scaler):
    """Write rows in a basis of their own span: an isometric copy of as many columns as rows."""
    basis, _ = np.linalg.qr(values.T.astype(np.float64))
    return ScaledRows(
        rows=np.arange(len(values)),
        values=values @ basis,
        scaler=scaler,
        is_reduced=True,
        restore=lambda weights: weights @ basis.T,
    )


TIGHT = {"logreg": {"tol": 1e-8, "max_iter": 10000}, "linear_svm": {"tol": 1e-7, "max_iter": 10**6}}
TIGHT_PLAIN = {
    ("logreg", "classification"): LogisticRegression(tol=1e-8, max_iter=10000),
    ("logreg", "multilabel"): OneVsRestClassifier(LogisticRegression(tol=1e-8, max_iter=10000)),
    ("linear_svm", "classification"): LinearSVC(tol=1e-7, max_iter=10**6),
    ("linear_svm", "multilabel"): OneVsRestClassifier(LinearSVC(tol=1e-7, max_iter=10**6)),
    ("ridge", "classification"): RidgeClassifier(),
    ("ridge", "multilabel"): OneVsRestClassifier(RidgeClassifier()),
    ("ridge", "regression"): Ridge(),
}


@pytest.mark.parametrize(("kind", "task"), PLAIN)
@pytest.mark.parametrize("scale", ["standard", "l2"])
def test_a_fit_on_reduced_rows_is_the_fit_on_the_full_matrix(kind, task, scale):
    targets, train, test = DIGIT_TARGETS[task], np.arange(120), np.arange(120, 200)
    scaler = SCALERS[scale]().fit(WIDE[train])
    values = scaler.transform(WIDE.astype(np.float64))
    settings = parse_settings(kind, {"scale": scale, **TIGHT.get(kind, {})})
    scaled = reduce(values, scaler)
    fitted = fit_estimator(kind, settings, scaled.values[train], targets.select(train), seed=0)
    if kind != "knn":  # which keeps its rows, and is not kept where they are reduced
        head = fitted.to_head(scaled)
        assert head.n_features == WIDE.shape[1] > 10 * len(WIDE)
        np.testing.assert_allclose(
            head.predict(WIDE[test]), fitted.predict(scaled.values[test]), rtol=1e-3, atol=1e-3
        )
    if (kind, task) not in TIGHT_PLAIN:
        full = fit_estimator(kind, settings, values[train], targets.select(train), seed=0)
        np.testing.assert_allclose(
            fitted.predict(scaled.values), full.predict(values), rtol=1e-6, atol=1e-6
        )
        return
    plain = TIGHT_PLAIN[kind, task].fit(values[train], targets.values[train])
    parts = getattr(plain, "estimators_", [plain])
    expected = np.vstack([part.coef_ for part in parts])
    found = head.linear_form().weights.T
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-3
    decided = decide(head, head.predict(WIDE[test]))
    if task == "regression":
        np.testing.assert_allclose(decided, plain.predict(values[test]), rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(decided, plain.predict(values[test]))
