"""The head ``head2toe`` against plain scikit-learn on the features that it keeps."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler, normalize

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.heads.head2toe import head as module
from permafrost.stages.heads.head2toe.head import count_kept
from permafrost.stages.matrices.joined import JoinedMatrix
from permafrost.stages.matrices.matrix import ArrayMatrix
from tests.stages.heads.head2toe.test_relevance import N_ROWS, TARGETS, VALUES

WIDTHS = (200, 70, 30)
# Only the first two layers say anything of the digits.
LAYERS = np.split(VALUES * np.repeat(np.float32([1, 100, 0.01]), WIDTHS), [200, 270], axis=1)
LAYERS[2] = np.random.default_rng(2).standard_normal((N_ROWS, 30)).astype(np.float32)
JOINED = np.hstack(LAYERS)
TRAIN, TEST = np.arange(0, 60), np.arange(60, N_ROWS)


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(module, "_SCORES", OrderedDict())


def fit(task="classification", *, layers=LAYERS, memory_bytes=10**9, **settings):
    parsed = parse_settings("head2toe", {"share": 0.1, **settings})
    matrix = JoinedMatrix([ArrayMatrix(layer) for layer in layers])
    return fit_head(
        "head2toe", parsed, matrix, TARGETS[task], train=TRAIN, seed=0, memory_bytes=memory_bytes
    )


def find_kept(head):
    parts = getattr(head.pipeline[-1], "estimators_", [head.pipeline[-1]])
    return np.flatnonzero(np.vstack([part.coef_ for part in parts]).any(axis=0))


def scale(name):
    if name == "standard":
        return StandardScaler().fit(JOINED[TRAIN]).transform(JOINED)
    if name == "layer":
        return np.hstack([normalize(layer.astype(np.float64)) for layer in LAYERS])
    return normalize(JOINED) if name == "l2" else JOINED


@pytest.mark.parametrize("name", ["standard", "layer", "l2", "none"])
@pytest.mark.parametrize("task", TARGETS)
def test_it_is_scikit_learns_head_on_the_features_that_it_keeps(task, name, tmp_path):
    head = fit(task, scale=name, C=0.5)
    kept = find_kept(head)
    assert len(kept) == 30
    columns = StandardScaler().fit(scale(name)[TRAIN][:, kept]).transform(scale(name)[:, kept])
    truth = TARGETS[task].values[TRAIN]
    plain = LogisticRegression(C=0.5, tol=1e-6, max_iter=1000)
    if task == "regression":
        wanted = Ridge(alpha=2).fit(columns[TRAIN], truth).predict(columns[TEST])[:, np.newaxis]
    else:
        model = OneVsRestClassifier(plain) if task == "multilabel" else plain
        wanted = model.fit(columns[TRAIN], truth.astype(np.str_ if task[0] == "c" else int))
        wanted = wanted.predict_proba(columns[TEST])
    said = head.predict(JOINED[TEST])
    np.testing.assert_allclose(said, wanted, atol=1e-2)
    head.save(tmp_path)
    np.testing.assert_array_equal(load_head(tmp_path).predict(JOINED[TEST]), said)


def test_layers_that_say_nothing_are_left_out_and_it_tells_so():
    head = fit(share=0.05, scale="standard")
    counts = count_kept(head, WIDTHS)
    assert sum(counts) == 15 == len(find_kept(head))
    assert counts[2] == 0 < min(counts[:2])


def test_rows_that_are_not_trained_on_change_nothing():
    changed = [layer.copy() for layer in LAYERS]
    for layer in changed:
        layer[TEST] = 1e6
    ours, theirs = fit(), fit(layers=changed)
    np.testing.assert_array_equal(ours.pipeline[-1].coef_, theirs.pipeline[-1].coef_)


def test_the_memory_changes_nothing():
    generous, tight = fit(), fit(memory_bytes=1_000_000)
    np.testing.assert_array_equal(find_kept(generous), find_kept(tight))
    np.testing.assert_allclose(
        generous.predict(JOINED[TEST]), tight.predict(JOINED[TEST]), atol=1e-4
    )


def test_a_larger_share_keeps_more_and_scores_once(monkeypatch):
    measured = []
    measure = module.measure_relevance

    def count(*given, **named):
        measured.append(named["strength"])
        return measure(*given, **named)

    monkeypatch.setattr(module, "measure_relevance", count)
    few, more = (set(find_kept(fit(share=share)).tolist()) for share in (0.02, 0.1))
    assert few < more and measured == [0.1]
    fit(relevance=0.5)
    fit(task="regression")
    assert measured == [0.1, 0.5, 0.1]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"share": 0}, "share=0: give a number above 0 and up to 1"),
        ({"relevance": 1}, "relevance=1: give a number between 0 and 1"),
        ({"scale": "rows"}, "scale=rows: give one of standard, l2, none, layer"),
    ],
)
def test_wrong_settings_are_one_line(settings, line):
    with pytest.raises(InputError, match=f"head2toe cannot use {line}"):
        fit(**settings)


def test_too_little_memory_is_one_line():
    with pytest.raises(InputError, match="pool the layers, as with all:avg"):
        fit(memory_bytes=100_000)
    many = Targets(task="regression", values=np.arange(5000.0), classes=np.empty(0, np.str_))
    with pytest.raises(InputError, match=r"share=1 keeps 300 features, .* give a smaller share"):
        fit_head(
            "head2toe",
            parse_settings("head2toe", {"share": 1}),
            ArrayMatrix(np.zeros((5000, 300), np.float32)),
            many,
            train=np.arange(5000),
            seed=0,
            memory_bytes=2_000_000,
        )


def test_broken_rows_are_one_line():
    broken = [layer.copy() for layer in LAYERS]
    broken[1][3, 4] = np.nan
    with pytest.raises(InputError, match="1 of 60 rows of features hold NaN"):
        fit(layers=broken)
