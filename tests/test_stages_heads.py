from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from stages.errors import InputError, StageError, UnknownNameError
from stages.heads import LogregSettings, MlpSettings, fit_head, load_head, parse_settings
from stages.heads.mlp import choose_held_out

DIGITS = load_digits()
X = DIGITS.data.astype(np.float32)
Y = np.array([f"digit {n}" for n in DIGITS.target])
TRAIN, TEST = np.arange(0, 1200), np.arange(1200, 1797)
TWO = np.flatnonzero(DIGITS.target < 2)
QUICK = {"logreg": {"max_iter": 50}, "mlp": {"hidden": 32, "epochs": 3}}
KINDS = pytest.mark.parametrize("kind", ["logreg", "mlp"])


def fit(kind, rows=TRAIN, seed=0, x=X, y=Y, **settings):
    parsed = parse_settings(kind, settings or QUICK[kind])
    return fit_head(kind, parsed, x[rows], y[rows], seed=seed)


@pytest.fixture(scope="module", params=["logreg", "mlp"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / request.param
    head = fit(request.param)
    head.save(folder)
    return head, folder


# Settings


def test_text_and_typed_settings_mean_the_same():
    text = {"hidden": "256,128", "dropout": "0.6", "epochs": "5", "scale": "l2"}
    typed = {"hidden": [256, 128], "dropout": 0.6, "epochs": 5, "scale": "l2"}
    assert parse_settings("mlp", text) == parse_settings("mlp", typed)
    assert parse_settings("mlp", text) == MlpSettings(
        hidden=(256, 128), dropout=0.6, epochs=5, scale="l2"
    )
    assert parse_settings("logreg", {"C": "1e-3", "class_weight": None}) == LogregSettings(C=0.001)


@pytest.mark.parametrize(
    ("given", "hidden"),
    [("[256]", (256,)), ("256", (256,)), (256, (256,)), ("[64, 32]", (64, 32)), ("[]", ())],
)
def test_hidden_sizes_are_read_however_they_are_written(given, hidden):
    assert parse_settings("mlp", {"hidden": given}).hidden == hidden


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("logreg", "C", -1),
        ("logreg", "C", "abc"),
        ("logreg", "C", float("nan")),
        ("logreg", "C", True),
        ("logreg", "scale", "foo"),
        ("logreg", "max_iter", 2.5),
        ("logreg", "class_weight", {"cat": 2}),
        ("mlp", "dropout", "1.5"),
        ("mlp", "hidden", "abc"),
        ("mlp", "hidden", [0]),
        ("mlp", "epochs", float("inf")),
    ],
)
def test_a_bad_value_is_named_with_what_would_do(kind, name, value):
    with pytest.raises(InputError, match="give ") as caught:
        parse_settings(kind, {name: value})
    assert f"{name}={value}" in str(caught.value)


def test_a_misspelt_name_proposes_the_nearest_one():
    with pytest.raises(UnknownNameError, match="did you mean 'max_iter'"):
        parse_settings("logreg", {"max_itr": 10})
    with pytest.raises(UnknownNameError, match="did you mean 'logreg'"):
        parse_settings("logrg", {})


# Logistic regression


@pytest.mark.parametrize(
    ("settings", "scaler"),
    [
        ({"C": 1.0}, StandardScaler()),
        ({"C": 0.01, "class_weight": "balanced"}, StandardScaler()),
        ({"C": 10.0, "scale": "l2"}, Normalizer()),
        ({"C": 0.1, "scale": "none"}, FunctionTransformer()),
    ],
)
def test_logreg_is_plain_scikit_learn(settings, scaler):
    plain = make_pipeline(
        scaler,
        LogisticRegression(
            C=settings["C"], class_weight=settings.get("class_weight"), max_iter=1000
        ),
    ).fit(X[TRAIN], Y[TRAIN])
    head = fit("logreg", **settings)
    assert head.classes.tolist() == plain.classes_.tolist()
    np.testing.assert_allclose(
        head.predict_proba(X[TEST]), plain.predict_proba(X[TEST]), rtol=0, atol=2e-5
    )


def test_a_binary_logreg_keeps_probabilities_that_float32_would_round_away():
    head = fit("logreg", rows=TWO, C=100)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=100)).fit(X[TWO], Y[TWO])
    far = X[TWO] * 8
    margins = plain.decision_function(far).astype(np.float64)
    assert margins.max() > 20
    expected = np.column_stack([-np.logaddexp(0, margins), -np.logaddexp(0, -margins)])
    np.testing.assert_allclose(np.log(head.predict_proba(far)), expected, rtol=1e-3, atol=1e-3)


def test_too_few_iterations_are_logged_not_warned(caplog, recwarn):
    fit("logreg", max_iter=2)
    assert [record.message for record in caplog.records if "max_iter=2" in record.message]
    assert not [w for w in recwarn if "converge" in str(w.message)]


# Multi-layer perceptron


@pytest.mark.parametrize("scale", ["standard", "l2", "none"])
def test_a_saved_mlp_is_a_plain_keras_model_of_raw_features(tmp_path, scale):
    import keras

    head = fit("mlp", hidden=[32, 16], epochs=2, scale=scale)
    head.save(tmp_path)
    plain = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_allclose(
        head.predict_proba(X[TEST]), plain.predict(X[TEST], verbose=0), rtol=1e-5, atol=1e-6
    )


def test_an_mlp_is_standardise_dense_relu_dense_softmax():
    head = fit("mlp", hidden=[32], epochs=2, patience=0)
    hidden, output = (
        head.network.get_layer(name).get_weights() for name in ("hidden_0", "probabilities")
    )
    standard = StandardScaler().fit(X[TRAIN]).transform(X[TEST])
    scores = np.maximum(standard @ hidden[0] + hidden[1], 0) @ output[0] + output[1]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X[TEST]), expected, rtol=1e-3, atol=1e-5)


def test_an_mlp_of_few_epochs_is_about_as_good_as_logistic_regression():
    head = fit("mlp", epochs=12)
    predicted = head.classes[head.predict_proba(X[TEST]).argmax(axis=1)]
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[TRAIN], Y[TRAIN])
    assert np.mean(predicted == Y[TEST]) > plain.score(X[TEST], Y[TEST]) - 0.02


def test_once_stopped_early_more_epochs_change_nothing():
    settings = {"hidden": 32, "patience": 1, "learning_rate": 0.02}
    short, long = (fit("mlp", epochs=epochs, **settings) for epochs in (30, 40))
    np.testing.assert_array_equal(short.predict_proba(X), long.predict_proba(X))


def test_a_seed_repeats_an_mlp_and_leaves_the_callers_random_numbers_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    first = fit("mlp", seed=5).predict_proba(X)
    assert (random.random(), np.random.random()) == expected
    np.testing.assert_array_equal(fit("mlp", seed=5).predict_proba(X), first)
    assert not np.array_equal(fit("mlp", seed=6).predict_proba(X), first)


def test_a_learning_rate_that_diverges_is_an_error():
    with pytest.raises(InputError, match=r"learning_rate=1e\+30"):
        fit("mlp", learning_rate=1e30, epochs=3)


def test_rows_held_out_are_a_tenth_of_every_class():
    codes = np.repeat([0, 1, 2], [1000, 300, 55])
    held_out = np.bincount(codes[choose_held_out(codes, seed=0)])
    assert np.all(np.abs(held_out - [100, 30, 5.5]) <= 1)


def test_the_only_row_of_a_class_is_never_held_out():
    codes = np.concatenate([np.arange(500), np.zeros(500, int)])
    for seed in range(5):
        held_out = choose_held_out(codes, seed=seed)
        assert len(held_out) >= 10
        assert set(np.delete(codes, held_out)) == set(codes)


def test_too_few_rows_to_hold_out_are_all_trained_on():
    assert len(choose_held_out(np.tile([0, 1], 20), seed=0)) == 0


def test_rows_held_out_do_not_reach_the_scaler():
    _, codes = np.unique(Y[TRAIN], return_inverse=True)
    kept = np.delete(X[TRAIN], choose_held_out(codes, seed=0), axis=0)
    plain = StandardScaler().fit(kept)
    mean, variance, _ = fit("mlp").network.get_layer("standard").get_weights()
    np.testing.assert_allclose(mean, plain.mean_, rtol=1e-5)
    np.testing.assert_allclose(variance, plain.scale_**2, rtol=1e-5)


# All heads


@KINDS
def test_changing_a_test_row_changes_nothing_in_the_head(kind):
    changed = X.copy()
    changed[TEST] = 1e6
    before, after = fit(kind), fit(kind, x=changed)
    np.testing.assert_array_equal(before.predict_proba(X), after.predict_proba(X))


@KINDS
def test_fitting_and_predicting_leave_the_features_as_they_were(kind):
    features = X.copy()
    fit(kind, rows=slice(None), x=features).predict_proba(features)
    np.testing.assert_array_equal(features, X)


@KINDS
def test_constant_columns_give_finite_probabilities(kind):
    features = np.column_stack([X, np.full(len(X), 0.1), np.full(len(X), 1e4)])
    head = fit(kind, x=features.astype(np.float32))
    features[:, -2:] += 1  # no longer the constant of the training rows
    probabilities = head.predict_proba(features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


@KINDS
def test_half_precision_features_are_the_same_numbers(kind):
    # Every value of the digits is exact in float16.
    half = fit(kind, x=X.astype(np.float16))
    np.testing.assert_array_equal(
        half.predict_proba(X.astype(np.float16)), fit(kind).predict_proba(X)
    )


@KINDS
def test_rows_in_many_batches_are_the_rows_in_one(kind, monkeypatch):
    at_once = fit(kind)
    monkeypatch.setattr("stages.heads.head.BATCH_BYTES", 100 * X.shape[1] * 4)
    assert at_once.predict_proba(X[:0]).shape == (0, 10)
    by_batch = at_once.predict_proba(X), fit(kind).predict_proba(X)
    monkeypatch.undo()
    for probabilities in by_batch:
        np.testing.assert_allclose(probabilities, at_once.predict_proba(X), rtol=0, atol=1e-4)


@KINDS
def test_unusable_training_rows_are_one_clear_error(kind):
    broken = X.copy()
    broken[[7, 9], 3] = np.inf, np.nan
    with pytest.raises(InputError, match=r"2 of 1200 rows .* NaN or infinity, the first is row 7"):
        fit(kind, x=broken)
    with pytest.raises(InputError, match="no training rows"):
        fit(kind, rows=slice(0, 0))
    with pytest.raises(InputError, match="all 20 training rows are labelled 'same'"):
        fit(kind, rows=slice(0, 20), y=np.full(len(X), "same"))
    with pytest.raises(InputError, match="not a matrix"):
        fit(kind, x=X.reshape(-1, 8, 8))


@KINDS
def test_features_of_another_layer_are_refused(kind):
    with pytest.raises(InputError, match="fitted on 64 features a row, not 10"):
        fit(kind).predict_proba(X[:, :10])


# Folders


def test_a_head_loaded_by_another_process_gives_the_same_probabilities(saved, tmp_path):
    head, folder = saved
    np.save(tmp_path / "x.npy", X[TEST])
    script = (
        "import sys, numpy as np; from pathlib import Path; from stages.heads import load_head\n"
        "folder, out = map(Path, sys.argv[1:])\n"
        "head = load_head(folder)\n"
        "np.save(out / 'p.npy', head.predict_proba(np.load(out / 'x.npy')))\n"
        "print(head.kind, ','.join(head.classes), head.settings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == f"{head.kind} {','.join(head.classes)} {head.settings}"
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), head.predict_proba(X[TEST]))


def test_a_saved_head_holds_arrays_and_json_only(saved):
    _, folder = saved
    (archive,) = set(folder.iterdir()) - {folder / "head.json"}
    assert archive.name in {"head.skops", "head.keras"}
    with ZipFile(archive) as members:
        for name in members.namelist():
            with members.open(name) as member:
                if name.endswith(".npy"):
                    np.lib.format.read_array(member, allow_pickle=False)
                elif name.endswith(".json"):
                    json.load(member)
                else:
                    assert member.read(8) == b"\x89HDF\r\n\x1a\n"


def damage(folder, tmp_path, **record):
    """Copy a saved head, with other entries in its head.json."""
    copy = tmp_path / "damaged"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    text = json.loads((copy / "head.json").read_text("utf-8"))
    (copy / "head.json").write_text(json.dumps(text | record), "utf-8")
    return copy


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "svm"},
        {"classes": ["a", "b"]},
        {"classes": 3},
        {"n_features": 7},
        {"n_features": -7},
        {"settings": {"scale": "l2"}},
        {"settings": {"scale": "cubic"}},
        {"settings": None},
    ],
)
def test_a_record_that_does_not_fit_its_file_is_refused(saved, tmp_path, record):
    with pytest.raises(StageError) as caught:
        load_head(damage(saved[1], tmp_path, **record))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_head_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a head .* python run.py fit"):
        load_head(tmp_path)


def test_a_truncated_head_is_refused(saved, tmp_path):
    folder = damage(saved[1], tmp_path)
    (archive,) = set(folder.iterdir()) - {folder / "head.json"}
    archive.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(InputError, match="not a head"):
        load_head(folder)


def leave_a_mark(x):
    Path("executed").touch()
    return x


@pytest.mark.parametrize(
    "intruder",
    [
        FunctionTransformer(leave_a_mark),
        make_pipeline(FunctionTransformer(leave_a_mark), LogisticRegression()),
        GaussianNB(),
        make_pipeline(StandardScaler(), GaussianNB()),
    ],
)
def test_a_skops_file_with_foreign_types_is_refused(tmp_path, monkeypatch, intruder):
    monkeypatch.chdir(tmp_path)
    fit("logreg").save(tmp_path)
    skops.io.dump(intruder, tmp_path / "head.skops")
    with pytest.raises(InputError, match="not a head"):
        load_head(tmp_path)
    assert not Path("executed").exists()


def test_a_keras_file_with_foreign_layers_is_refused(tmp_path, monkeypatch):
    import keras

    monkeypatch.chdir(tmp_path)
    fit("mlp", hidden=8, epochs=1, scale="none").save(tmp_path)
    intruder = keras.Sequential([keras.Input((64,)), keras.layers.Lambda(leave_a_mark)])
    intruder.save(tmp_path / "head.keras")
    Path("executed").unlink(missing_ok=True)
    with pytest.raises(InputError, match="other layers"):
        load_head(tmp_path)
    assert not Path("executed").exists()
