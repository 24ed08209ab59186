"""Heads with ``scale=layer``, against plain scikit-learn on layers of which each was normalised."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.heads.head import predict_rows
from permafrost.stages.matrices.joined import JoinedMatrix
from permafrost.stages.matrices.matrix import ArrayMatrix

PIXELS, DIGITS = load_digits(n_class=4, return_X_y=True)
# All pixels, and seven rows of them, some of which are blank in some images.
LAYERS = [
    (part * 10.0**scale).astype(np.float32)
    for scale, part in enumerate([PIXELS[:300], *np.split(PIXELS[:300], 8, axis=1)[1:]], start=-3)
]
TRAIN, TEST = np.arange(200), np.arange(200, 300)
WHOLE = np.hstack([normalize(layer.astype(np.float64)) for layer in LAYERS])
NAMES = DIGITS[:300].astype(str)
PLAIN = {
    "logreg": LogisticRegression(tol=1e-8, max_iter=10_000),
    "linear_svm": LinearSVC(tol=1e-8, max_iter=100_000),
    "ridge": RidgeClassifier(),
    "knn": KNeighborsClassifier(metric="cosine"),
}
EXACTLY = {"logreg": {"tol": 1e-8}, "linear_svm": {"tol": 1e-8, "max_iter": 100_000}}


@pytest.fixture(autouse=True)
def one_thread():
    """Keep plain scikit-learn's many small products from waiting for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield


def fit(kind, *, task="classification", **settings):
    values = NAMES if task == "classification" else DIGITS[:300].astype(np.float64)
    targets = Targets(
        task=task,
        values=values,
        classes=np.unique(NAMES if task == "classification" else NAMES[:0]),
    )
    parsed = parse_settings(kind, {"scale": "layer", **settings})
    matrix = JoinedMatrix([ArrayMatrix(layer) for layer in LAYERS])
    return fit_head(kind, parsed, matrix, targets, train=TRAIN, seed=0)


@pytest.mark.parametrize("kind", PLAIN)
def test_decisions_are_scikit_learns_and_a_saved_head_repeats_them(kind, tmp_path):
    head = fit(kind, **EXACTLY.get(kind, {}))
    plain = PLAIN[kind].fit(WHOLE[TRAIN], NAMES[TRAIN])
    said = head.predict(np.hstack(LAYERS)[TEST])
    np.testing.assert_array_equal(head.classes[said.argmax(axis=1)], plain.predict(WHOLE[TEST]))
    if kind == "logreg":
        # Rows in memory are float32, in which the loss stops falling sooner.
        np.testing.assert_allclose(said, plain.predict_proba(WHOLE[TEST]), atol=1e-3)
    head.save(tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(np.hstack(LAYERS)[TEST]), said)


@pytest.mark.parametrize(("kind", "task"), [("sgd", "classification"), ("sgd", "regression")])
def test_streamed_rows_end_at_the_same_minimum(kind, task, tmp_path):
    head = fit(kind, task=task, C=2, tol=1e-7, epochs=5000)
    if task == "regression":
        plain = Ridge(alpha=0.5).fit(WHOLE[TRAIN], DIGITS[:200])
        wanted = plain.predict(WHOLE[TEST])[:, np.newaxis]
    else:
        plain = LogisticRegression(C=2, tol=1e-8, max_iter=10_000).fit(WHOLE[TRAIN], NAMES[TRAIN])
        wanted = plain.predict_proba(WHOLE[TEST])
    said = head.predict(np.hstack(LAYERS)[TEST])
    np.testing.assert_allclose(said, wanted, atol=1e-4)
    head.save(tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(np.hstack(LAYERS)[TEST]), said)


@pytest.mark.parametrize("widths", [[], [60, 59], [120, 0], [121, -1], ["x"], None])
def test_a_saved_head_whose_layers_have_other_widths_is_refused(widths, tmp_path):
    fit("ridge").save(tmp_path)
    file = tmp_path / "head.json"
    record = json.loads(file.read_text())
    assert record["widths"] == [layer.shape[1] for layer in LAYERS]
    file.write_text(json.dumps(record | {"widths": widths}))
    with pytest.raises(InputError, match="is not a head that can be loaded"):
        load_head(tmp_path)


def test_layers_of_other_widths_are_refused_although_they_are_as_wide_together():
    head = fit("ridge")
    other = ArrayMatrix(np.hstack(LAYERS), layers=(60, 60))
    with pytest.raises(InputError, match="fitted on layers of 64, 8, 8, 8, 8, 8, 8, 8 features"):
        predict_rows(head, other, TEST)


def test_widths_are_refused_where_nothing_is_scaled_by_layer(tmp_path):
    fit("ridge", scale="l2").save(tmp_path)
    file = tmp_path / "head.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"widths": [10]}))
    with pytest.raises(InputError, match="other widths"):
        load_head(tmp_path)


def test_a_small_network_does_not_scale_by_layer():
    with pytest.raises(InputError, match=r"mlp cannot use scale=layer: give one of standard, l2"):
        parse_settings("mlp", {"scale": "layer"})
