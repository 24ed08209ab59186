from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError, StageError, UnknownNameError
from permafrost.stages.heads import HEADS, check_task, fit_head, load_head, parse_settings
from permafrost.stages.heads.linear import LogregSettings
from permafrost.stages.heads.networks.mlp import MlpSettings
from permafrost.stages.matrices.matrix import ArrayMatrix
from tests.helpers import ROOT

DIGITS = load_digits()
X = DIGITS.data.astype(np.float32)
NAMES = np.array([f"digit {n}" for n in DIGITS.target])
EVEN, PRIME, ROUND = (
    np.isin(DIGITS.target, s) for s in ([0, 2, 4, 6, 8], [2, 3, 5, 7], [0, 6, 8, 9])
)
TARGETS = {
    "classification": Targets(task="classification", values=NAMES, classes=np.unique(NAMES)),
    "multilabel": Targets(
        task="multilabel",
        values=np.column_stack([EVEN, PRIME, ROUND]),
        classes=np.array(["even", "prime", "round"]),
    ),
    "regression": Targets(
        task="regression", values=DIGITS.target.astype(float), classes=np.empty(0, np.str_)
    ),
}
TRAIN, TEST = np.arange(0, 400), np.arange(400, 800)
ESTIMATORS = [name for name, kind in HEADS.items() if kind.is_estimator]
CASES = [(name, task) for name in ESTIMATORS for task in HEADS[name].tasks]
KINDS = pytest.mark.parametrize("kind", ESTIMATORS)
ALL = pytest.mark.parametrize(("kind", "task"), CASES)


def fit(kind, task=None, *, train=TRAIN, x=X, memory_bytes=10**9, **settings):
    return fit_head(
        kind,
        parse_settings(kind, settings),
        ArrayMatrix(x),
        TARGETS[task or HEADS[kind].tasks[0]],
        train=train,
        seed=0,
        memory_bytes=memory_bytes,
    )


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / "head"
    head = fit(*request.param)
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
    ("given", "weights"),
    [
        ("balanced", "balanced"),
        (None, "none"),
        ("dog:3, cat:0.5", (("cat", 0.5), ("dog", 3.0))),
        ("[cat:0.5,dog:3]", (("cat", 0.5), ("dog", 3.0))),
        ({"dog": 3, "cat": 0.5}, (("cat", 0.5), ("dog", 3.0))),
        ([["cat", 0.5], ["dog", 3]], (("cat", 0.5), ("dog", 3.0))),
        ({1: 2}, (("1", 2.0),)),
        ("a:b:2", (("a:b", 2.0),)),
    ],
)
def test_class_weights_are_read_however_they_are_written(given, weights):
    assert parse_settings("ridge", {"class_weight": given}).class_weight == weights


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("logreg", "C", -1),
        ("logreg", "C", "abc"),
        ("logreg", "C", float("nan")),
        ("logreg", "C", True),
        ("logreg", "scale", "foo"),
        ("logreg", "max_iter", 2.5),
        ("logreg", "class_weight", "heavy"),
        ("logreg", "class_weight", {"cat": 0}),
        ("logreg", "class_weight", {}),
        ("logreg", "class_weight", "cat:1,cat:2"),
        ("logreg", "class_weight", "cat:1,dog"),
        ("logreg", "class_weight", 3),
        ("ridge", "alpha", 0),
        ("knn", "neighbors", 0),
        ("knn", "weights", "gaussian"),
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
    with pytest.raises(UnknownNameError, match=r"class 'prim' in class_weight.*'prime'"):
        fit("logreg", "multilabel", class_weight="prim:2")


# Bad input


def test_a_head_that_cannot_do_a_task_names_those_that_can():
    with pytest.raises(InputError, match="logreg does not do regression; use ridge, knn"):
        check_task("logreg", "regression")
    with pytest.raises(InputError, match="nearest_mean does not do multilabel; use logreg"):
        fit("nearest_mean", "multilabel")


@ALL
def test_training_rows_that_do_not_differ_are_one_clear_error(kind, task):
    with pytest.raises(InputError, match="no training rows"):
        fit(kind, task, train=TRAIN[:0])
    alike = np.flatnonzero(DIGITS.target == 8)[:20]
    said = {"classification": "digit 8", "multilabel": "even;round", "regression": "8.0"}[task]
    with pytest.raises(InputError, match=rf"all 20 training rows .* '{said}'; .* two that differ"):
        fit(kind, task, train=alike)


@KINDS
def test_unusable_features_are_one_clear_error(kind):
    broken = X.copy()
    broken[[7, 9], 3] = np.inf, np.nan
    with pytest.raises(InputError, match=r"2 of 400 rows .* NaN or infinity, the first is row 7"):
        fit(kind, x=broken)
    with pytest.raises(InputError, match="10 rows of features have 1797 labels"):
        fit(kind, x=X[:10])
    head = fit(kind)
    with pytest.raises(InputError, match="fitted on 64 features a row, not 10"):
        head.predict(X[:, :10])
    with pytest.raises(InputError, match="not a matrix"):
        head.predict(X.reshape(-1, 8, 8))


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(InputError, match="neighbors=5 of 3 training rows; give --set neighbors=3"):
        fit("knn", train=TRAIN[:3])


def test_only_what_copies_its_rows_often_is_refused_for_lack_of_memory():
    rows = np.arange(600)
    assert fit("knn", train=rows, memory_bytes=10**6).classes.tolist() == np.unique(NAMES).tolist()
    with pytest.raises(InputError, match="600 rows of 64 features takes 2MB, more than the 1MB"):
        fit("linear_svm", train=rows, memory_bytes=10**6)


def test_classes_of_a_regression_cannot_be_weighed():
    with pytest.raises(InputError, match="drop class_weight"):
        fit("ridge", "regression", class_weight="balanced")


# All heads


@ALL
def test_changing_a_test_row_changes_nothing_in_the_head(kind, task):
    changed = X.copy()
    changed[TEST] = 1e6
    np.testing.assert_array_equal(fit(kind, task).predict(X), fit(kind, task, x=changed).predict(X))


@KINDS
def test_fitting_and_predicting_leave_the_features_as_they_were(kind):
    features = X.copy()
    fit(kind, x=features).predict(features)
    np.testing.assert_array_equal(features, X)


@ALL
def test_constant_columns_give_finite_outputs(kind, task):
    features = np.column_stack([X, np.full(len(X), 0.1), np.full(len(X), 1e4)])
    head = fit(kind, task, x=features.astype(np.float32))
    features[:, -2:] += 1  # no longer the constant of the training rows
    outputs = head.predict(features)
    assert outputs.shape == (len(X), max(1, len(head.classes)))
    assert np.isfinite(outputs).all()
    if task == "classification":
        np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-12)


@KINDS
def test_half_precision_features_are_the_same_numbers(kind):
    # Every value of the digits is exact in float16.
    half = fit(kind, x=X.astype(np.float16)).predict(X.astype(np.float16))
    np.testing.assert_array_equal(half, fit(kind).predict(X))


@ALL
def test_rows_predicted_in_many_batches_are_the_rows_in_one(kind, task, monkeypatch):
    head = fit(kind, task)
    at_once = head.predict(X)
    monkeypatch.setattr("permafrost.stages.heads.head.BATCH_BYTES", 100 * X.shape[1] * 4)
    assert head.predict(X[:0]).shape == at_once[:0].shape
    np.testing.assert_allclose(head.predict(X), at_once, rtol=1e-6, atol=1e-6)


# Folders


def test_a_loaded_head_says_the_same(saved):
    head, folder = saved
    loaded = load_head(folder)
    np.testing.assert_array_equal(loaded.predict(X[TEST]), head.predict(X[TEST]))
    assert loaded.classes.tolist() == head.classes.tolist()
    assert (loaded.kind, loaded.task, loaded.settings) == (head.kind, head.task, head.settings)


def test_a_head_loaded_by_another_process_says_the_same(tmp_path):
    head = fit("logreg", class_weight={"digit 3": 2})
    head.save(tmp_path)
    np.save(tmp_path / "x.npy", X[TEST])
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from permafrost.stages.heads import load_head\n"
        "folder = Path(sys.argv[1])\n"
        "head = load_head(folder)\n"
        "np.save(folder / 'p.npy', head.predict(np.load(folder / 'x.npy')))\n"
        "print(head.kind, ','.join(head.classes), head.settings)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == f"logreg {','.join(head.classes)} {head.settings}"
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), head.predict(X[TEST]))


def test_a_saved_head_is_a_plain_scikit_learn_pipeline(saved):
    head, folder = saved
    plain, outputs = skops.io.load(folder / "head.skops"), head.predict(X[TEST])
    said = plain.predict(X[TEST])
    if head.task == "regression":
        np.testing.assert_allclose(said, outputs[:, 0], rtol=1e-4)
    elif head.task == "multilabel":
        np.testing.assert_array_equal(said > 0.5, outputs > 0.5)
    else:
        np.testing.assert_array_equal(said, head.classes[outputs.argmax(axis=1)])


def test_a_saved_head_holds_arrays_and_json_only(saved):
    _, folder = saved
    assert {path.name for path in folder.iterdir()} == {"head.json", "head.skops"}
    with ZipFile(folder / "head.skops") as members:
        for name in members.namelist():
            with members.open(name) as member:
                if name.endswith(".npy"):
                    np.lib.format.read_array(member, allow_pickle=False)
                else:
                    json.load(member)


def test_a_head_from_before_there_were_tasks_is_a_classifier(tmp_path):
    fit("logreg").save(tmp_path)
    record = json.loads((tmp_path / "head.json").read_text("utf-8"))
    del record["task"]
    (tmp_path / "head.json").write_text(json.dumps(record), "utf-8")
    assert load_head(tmp_path).task == "classification"


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
        {"task": "clustering"},
        {"classes": ["a", "b"]},
        {"classes": ["b", "a"]},
        {"classes": 3},
        {"n_features": 7},
        {"n_features": -7},
        {"settings": {"scale": "cubic"}},
        {"settings": None},
    ],
)
def test_a_record_that_does_not_fit_its_file_is_refused(saved, tmp_path, record):
    with pytest.raises(StageError) as caught:
        load_head(damage(saved[1], tmp_path, **record))
    assert "\n" not in str(caught.value)


def test_a_record_of_another_scale_is_refused(saved, tmp_path):
    other = "standard" if saved[0].settings.scale == "l2" else "l2"
    with pytest.raises(InputError, match="another scaler"):
        load_head(damage(saved[1], tmp_path, settings={"scale": other}))


def test_a_folder_that_is_no_head_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a head .* python run.py fit"):
        load_head(tmp_path)


def test_a_truncated_head_is_refused(saved, tmp_path):
    folder = damage(saved[1], tmp_path)
    archive = folder / "head.skops"
    archive.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(InputError, match="not a head"):
        load_head(folder)


def leave_a_mark(x, y=None):
    Path("executed").touch()
    return 1.0 if y is not None else x


TAGS = TARGETS["multilabel"].values
INTRUDERS = [
    ("logreg", FunctionTransformer(leave_a_mark)),
    ("logreg", make_pipeline(FunctionTransformer(leave_a_mark), LogisticRegression())),
    ("logreg", GaussianNB()),
    ("logreg", make_pipeline(StandardScaler(), GaussianNB()).fit(X, NAMES)),
    ("knn", make_pipeline(Normalizer(), KNeighborsClassifier()).fit(X, NAMES)),
    ("knn", make_pipeline(Normalizer(), KNeighborsClassifier(metric=leave_a_mark))),
    ("logreg", make_pipeline(StandardScaler(), OneVsRestClassifier(GaussianNB())).fit(X, TAGS)),
]


@pytest.mark.parametrize(("kind", "intruder"), INTRUDERS)
def test_a_skops_file_of_something_else_is_refused(tmp_path, monkeypatch, kind, intruder):
    monkeypatch.chdir(tmp_path)
    fit(kind).save(tmp_path)
    skops.io.dump(intruder, tmp_path / "head.skops")
    with pytest.raises(InputError, match="not a head"):
        load_head(tmp_path)
    assert not Path("executed").exists()
