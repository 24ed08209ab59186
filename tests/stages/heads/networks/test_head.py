from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError, StageError, UnknownNameError
from permafrost.stages.heads import fit_head, load_head, parse_settings
from permafrost.stages.heads.networks.held_out import choose_held_out
from permafrost.stages.matrices.matrix import ArrayMatrix

DIGITS = load_digits()
X = DIGITS.data.astype(np.float32)
TRAIN, TEST = np.arange(0, 1200), np.arange(1200, 1797)
NAMES = np.array([f"digit {n}" for n in DIGITS.target])
CLASSES = Targets(task="classification", values=NAMES, classes=np.unique(NAMES))
TAGS = Targets(
    task="multilabel",
    values=np.column_stack(
        [np.isin(DIGITS.target, s) for s in ([0, 2, 4, 6, 8], [2, 3, 5, 7], [0, 6, 8, 9])]
    ),
    classes=np.array(["even", "prime", "round"]),
)
DIABETES = load_diabetes()
PATIENTS = DIABETES.data.astype(np.float32)
PROGRESS = Targets(task="regression", values=DIABETES.target, classes=np.empty(0, np.str_))
SOME, OTHERS = np.split(np.random.default_rng(1).permutation(442), [300])
QUICK = {"hidden": 32, "epochs": 3}


def fit(targets=CLASSES, *, x=X, train=TRAIN, seed=0, memory_bytes=10**9, **settings):
    parsed = parse_settings("mlp", settings or QUICK)
    return fit_head(
        "mlp", parsed, ArrayMatrix(x), targets, train=train, seed=seed, memory_bytes=memory_bytes
    )


# The network


@pytest.mark.parametrize("scale", ["standard", "l2", "none"])
@pytest.mark.parametrize("targets", [CLASSES, TAGS, PROGRESS], ids=lambda t: t.task)
def test_a_saved_mlp_is_a_plain_keras_model_of_raw_features(tmp_path, scale, targets):
    import keras

    x, train = (PATIENTS, SOME) if targets is PROGRESS else (X, TRAIN)
    head = fit(targets, x=x, train=train, hidden=[32, 16], epochs=2, scale=scale)
    head.save(tmp_path)
    plain = keras.saving.load_model(tmp_path / "head.keras")
    outputs = head.predict(x)
    np.testing.assert_allclose(outputs, plain.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict(x), outputs)
    assert (loaded.task, loaded.classes.tolist()) == (targets.task, targets.classes.tolist())


def test_an_mlp_is_standardise_dense_relu_dense_softmax():
    head = fit(hidden=[32], epochs=2, patience=0)
    hidden, output = (
        head.network.get_layer(name).get_weights() for name in ("hidden_0", "probabilities")
    )
    standard = StandardScaler().fit(X[TRAIN]).transform(X[TEST])
    scores = np.maximum(standard @ hidden[0] + hidden[1], 0) @ output[0] + output[1]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict(X[TEST]), expected, rtol=1e-3, atol=1e-5)


# What it learns


def test_an_mlp_of_few_epochs_is_about_as_good_as_logistic_regression():
    head = fit(epochs=12)
    predicted = head.classes[head.predict(X[TEST]).argmax(axis=1)]
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[TRAIN], NAMES[TRAIN])
    assert np.mean(predicted == NAMES[TEST]) > plain.score(X[TEST], NAMES[TEST]) - 0.02


def test_without_hidden_layers_it_becomes_logistic_regression():
    x = X[:, 18:46:4]  # few columns, so that classes overlap and there are weights to come to
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=1e6, max_iter=1000))
    expected = plain.fit(x[TRAIN], NAMES[TRAIN]).predict_proba(x[TEST])
    head = fit(x=x, hidden=[], patience=0, epochs=100, learning_rate=0.005)
    outputs = head.predict(x[TEST])
    assert np.abs(outputs - expected).mean() < 0.02
    assert np.mean(outputs.argmax(axis=1) == expected.argmax(axis=1)) > 0.9


def test_a_regression_is_near_ridge_in_units_of_its_own():
    truth = DIABETES.target
    plain = make_pipeline(StandardScaler(), Ridge()).fit(PATIENTS[SOME], truth[SOME])
    expected = r2_score(truth[OTHERS], plain.predict(PATIENTS[OTHERS]))
    head = fit(PROGRESS, x=PATIENTS, train=SOME, hidden=32, dropout=0.2, epochs=60)
    predicted = head.predict(PATIENTS[OTHERS])
    assert predicted.shape == (len(OTHERS), 1)
    assert expected > 0.3
    assert r2_score(truth[OTHERS], predicted[:, 0]) > expected - 0.08


def test_tags_are_ranked_better_than_by_logistic_regressions():
    outputs = fit(TAGS, epochs=20).predict(X[TEST])
    assert outputs.shape == (len(TEST), 3)
    for i in range(3):
        truth = TAGS.values[:, i]
        plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[TRAIN], truth[TRAIN])
        linear = average_precision_score(truth[TEST], plain.predict_proba(X[TEST])[:, 1])
        assert average_precision_score(truth[TEST], outputs[:, i]) > linear


def test_class_weights_count_a_row_as_so_many():
    # As many copies of the rows are the same loss; patience=0 holds none of them out.
    rows = TRAIN[DIGITS.target[TRAIN] < 2]
    ones = rows[DIGITS.target[rows] == 1]
    settings = {"hidden": [], "patience": 0, "epochs": 400, "learning_rate": 0.003}
    settings |= {"batch_size": 1000, "scale": "l2"}
    copied = fit(train=np.concatenate([rows, ones, ones]), **settings).predict(X[rows])
    weighted = fit(train=rows, class_weight="digit 1:3", **settings).predict(X[rows])
    unweighted = fit(train=rows, **settings).predict(X[rows])
    error = np.abs(weighted - copied).mean()
    assert error < 0.1 * np.abs(unweighted - copied).mean()


def test_balanced_weights_raise_what_is_said_of_a_rare_class():
    rare = np.flatnonzero(DIGITS.target[TRAIN] == 8)[:8]
    rows = np.concatenate([TRAIN[DIGITS.target[TRAIN] != 8], TRAIN[rare]])
    none, balanced = (
        fit(train=rows, hidden=32, epochs=10, class_weight=w) for w in ("none", "balanced")
    )
    eights = TEST[DIGITS.target[TEST] == 8]
    said = [head.predict(X[eights])[:, 8].mean() for head in (none, balanced)]
    assert said[1] > said[0] + 0.1


def test_weights_of_no_class_and_of_values_are_refused():
    with pytest.raises(UnknownNameError, match="'digit 11'"):
        fit(class_weight="digit 11:2")
    with pytest.raises(InputError, match="drop class_weight"):
        fit(PROGRESS, x=PATIENTS, train=SOME, class_weight="balanced")


def test_once_stopped_early_more_epochs_change_nothing():
    settings = {"hidden": 32, "patience": 1, "learning_rate": 0.02}
    short, long = (fit(epochs=epochs, **settings) for epochs in (30, 40))
    np.testing.assert_array_equal(short.predict(X), long.predict(X))


def test_a_seed_repeats_an_mlp_and_leaves_the_callers_random_numbers_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    first = fit(seed=5).predict(X)
    assert (random.random(), np.random.random()) == expected
    np.testing.assert_array_equal(fit(seed=5).predict(X), first)
    assert not np.array_equal(fit(seed=6).predict(X), first)


def test_a_learning_rate_that_diverges_is_an_error():
    with pytest.raises(InputError, match=r"learning_rate=1e\+30"):
        fit(learning_rate=1e30, epochs=3)


# Rows


def test_rows_held_out_are_a_tenth_of_every_class():
    codes = np.repeat([0, 1, 2], [1000, 300, 55])
    held_out = np.bincount(codes[choose_held_out(codes, np.arange(len(codes)), seed=0)])
    assert np.all(np.abs(held_out - [100, 30, 5.5]) <= 1)


def test_the_only_row_of_a_class_is_never_held_out():
    codes = np.concatenate([np.arange(500), np.zeros(500, int)])
    for seed in range(5):
        held_out = choose_held_out(codes, np.arange(len(codes)), seed=seed)
        assert len(held_out) >= 10
        assert set(np.delete(codes, held_out)) == set(codes)


def test_too_few_rows_to_hold_out_are_all_trained_on():
    assert len(choose_held_out(np.tile([0, 1], 20), np.arange(40), seed=0)) == 0


def test_rows_held_out_do_not_reach_the_scaler():
    _, codes = np.unique(NAMES[TRAIN], return_inverse=True)
    kept = np.delete(X[TRAIN], choose_held_out(codes, np.arange(len(codes)), seed=0), axis=0)
    plain = StandardScaler().fit(kept)
    mean, variance, _ = fit().network.get_layer("standard").get_weights()
    np.testing.assert_allclose(mean, plain.mean_, rtol=1e-5)
    np.testing.assert_allclose(variance, plain.scale_**2, rtol=1e-5)


def test_changing_a_test_row_changes_nothing_in_the_head():
    changed = X.copy()
    changed[TEST] = 1e6
    np.testing.assert_array_equal(fit().predict(X), fit(x=changed).predict(X))


def test_constant_columns_give_finite_probabilities():
    features = np.column_stack([X, np.full(len(X), 0.1), np.full(len(X), 1e4)])
    head = fit(x=features.astype(np.float32))
    features[:, -2:] += 1  # no longer the constant of the training rows
    np.testing.assert_allclose(head.predict(features).sum(axis=1), 1, rtol=1e-12)


def test_half_precision_features_are_the_same_numbers():
    # Every value of the digits is exact in float16.
    half = fit(x=X.astype(np.float16))
    np.testing.assert_array_equal(half.predict(X.astype(np.float16)), fit().predict(X))


# Memory


class WatchedMatrix(ArrayMatrix):
    """Counts the rows of each read."""

    def __init__(self, values):
        super().__init__(values)
        object.__setattr__(self, "reads", [])

    def read(self, rows):
        self.reads.append(len(rows))
        return super().read(rows)


def test_a_small_buffer_is_about_as_good_as_all_of_the_memory():
    order = np.argsort(NAMES, kind="stable")  # class by class: the hardest to shuffle
    x = np.tile(X[order], (1, 20))
    targets = CLASSES.select(order)
    rng = np.random.default_rng(0)
    train = np.sort(rng.choice(len(x), 1200, replace=False))
    test = np.setdiff1d(np.arange(len(x)), train)
    settings = parse_settings("mlp", {"hidden": 16, "dropout": 0.2, "epochs": 12})
    losses, reads = [], []
    for memory_bytes in (3_000_000, 10**9):
        matrix = WatchedMatrix(x)
        head = fit_head(
            "mlp", settings, matrix, targets, train=train, seed=0, memory_bytes=memory_bytes
        )
        losses.append(log_loss(targets.values[test], head.predict(x[test])))
        reads.append(matrix.reads)
    assert sum(reads[1]) == len(train)
    assert sum(reads[0]) > 12 * len(train)
    assert max(reads[0]) * x[0].nbytes < 3_000_000 / 4
    assert losses[0] < losses[1] + 0.1
    assert not [t for t in threading.enumerate() if "read-ahead" in t.name]


def test_more_weights_than_memory_are_refused_with_what_would_do():
    with pytest.raises(InputError, match=r"--memory \d+MB, or fewer units"):
        fit(hidden=100_000, memory_bytes=10**8)


def test_broken_rows_are_one_clear_error():
    broken = X.copy()
    broken[[7, 9], 3] = np.inf, np.nan
    with pytest.raises(InputError, match=r"2 of 1200 rows .* NaN or infinity, the first is row 7"):
        fit(x=broken)


# Folders


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlp")
    fit().save(folder)
    return folder


def damage(folder, tmp_path, **record):
    """Copy a saved head, with other entries in its head.json."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = json.loads((tmp_path / "head.json").read_text("utf-8"))
    (tmp_path / "head.json").write_text(json.dumps(text | record), "utf-8")
    return tmp_path


def test_a_saved_mlp_holds_arrays_and_json_only(saved):
    with ZipFile(saved / "head.keras") as members:
        for name in members.namelist():
            with members.open(name) as member:
                if name.endswith(".json"):
                    json.load(member)
                else:
                    assert member.read(8) == b"\x89HDF\r\n\x1a\n"


def test_an_mlp_from_before_there_were_tasks_is_a_classifier(saved, tmp_path):
    folder = damage(saved, tmp_path)
    record = json.loads((folder / "head.json").read_text("utf-8"))
    del record["task"], record["settings"]["class_weight"]
    (folder / "head.json").write_text(json.dumps(record), "utf-8")
    np.testing.assert_array_equal(load_head(folder).predict(X), load_head(saved).predict(X))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "logreg"},
        {"task": "regression"},
        {"task": "multilabel"},
        {"classes": ["a", "b"]},
        {"n_features": 7},
        {"n_features": -7},
        {"settings": {"scale": "l2"}},
        {"settings": {"hidden": [8]}},
        {"settings": None},
    ],
)
def test_a_record_that_does_not_fit_its_file_is_refused(saved, tmp_path, record):
    with pytest.raises(StageError) as caught:
        load_head(damage(saved, tmp_path, **record))
    assert "\n" not in str(caught.value)


def test_a_truncated_mlp_is_refused(saved, tmp_path):
    folder = damage(saved, tmp_path)
    (folder / "head.keras").write_bytes((folder / "head.keras").read_bytes()[:-400])
    with pytest.raises(InputError, match="not a head"):
        load_head(folder)


def leave_a_mark(x):
    Path("executed").touch()
    return x


def test_a_keras_file_with_foreign_layers_is_refused(tmp_path, monkeypatch):
    import keras

    monkeypatch.chdir(tmp_path)
    fit(hidden=8, epochs=1, scale="none").save(tmp_path)
    intruder = keras.Sequential([keras.Input((64,)), keras.layers.Lambda(leave_a_mark)])
    intruder.save(tmp_path / "head.keras")
    Path("executed").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"other layers|fewer weights"):
        load_head(tmp_path)
    assert not Path("executed").exists()
