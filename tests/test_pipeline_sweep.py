from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from permafrost.pipeline.sweeps.grid import Configuration, HeadGrid, split_values
from permafrost.pipeline.sweeps.journal import FoldRecord, Journal
from permafrost.pipeline.sweeps.leaderboard import rank, write_folds
from permafrost.stages.evaluation.folds import Fold
from tests.views import write_features

ROOT = Path(__file__).parent.parent
N = 400
DIGITS = load_digits()
MAPS = DIGITS.images[:N, :, :, None].astype(np.float32)
PIXELS = DIGITS.data[:N].astype(np.float32)
HALVES = np.concatenate([PIXELS[:, 32:], PIXELS[:, :32] ** 2], axis=1)
LABELS = np.array([f"digit {digit}" for digit in DIGITS.target[:N]])
SPLITS = np.array(["train", "test", "train", "train"] * (N // 4))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    layers = {"late:avg": PIXELS, "early:avg": HALVES, "maps": MAPS}
    path = tmp_path_factory.mktemp("sweep") / "features.h5"
    return write_features(path, layers, labels=LABELS, splits=SPLITS)


@pytest.fixture
def sweep(command, tmp_path):
    """Call ``sweep``; returns what ``--json`` printed."""

    def call(features, *options, out=tmp_path / "out", jobs=1):
        files = features if isinstance(features, list) else [features]
        named = [text for file in files for text in ("--features", file)]
        answer = command("sweep", *named, "--out", out, "--jobs", jobs, "--json", *options)
        assert answer.status == 0, answer.err
        return answer.figures

    return call


def read_rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def read_folds(out, n_rows=N):
    """Return the fold of each row, -1 where it is in none."""
    folds = np.full(n_rows, -1)
    for row in read_rows(out / "folds.csv"):
        folds[int(row["path"][:4])] = int(row["fold"])
    return folds


def score_plainly(model, values, folds, targets=LABELS, **options):
    rest = folds >= 0
    return cross_val_score(
        model, values[rest], targets[rest], cv=PredefinedSplit(folds[rest]), **options
    )


# The numbers


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_leaderboard_equals_cross_val_score_on_the_same_folds(view, sweep, tmp_path, jobs):
    found = sweep(
        *(view, "--layers", "late:avg,early:avg", "--heads", "logreg,knn"),
        *("--set", "C=0.01,1", "--set", "knn.scale=l2", "--cv", 4),
        jobs=jobs,
    )
    folds = read_folds(tmp_path / "out")
    assert set(folds[SPLITS == "test"]) == {-1}
    models = {
        ("logreg", 0.01): make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=999)),
        ("logreg", 1.0): make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=999)),
        ("knn", None): make_pipeline(Normalizer(), KNeighborsClassifier(metric="cosine")),
    }
    assert len(found["configurations"]) == 6
    for one in found["configurations"]:
        values = PIXELS if one["layer"] == "late:avg" else HALVES
        model = models[one["head"], one["settings"].get("C")]
        expected = score_plainly(model, values, folds)
        assert [fold["accuracy"] for fold in one["folds"]] == pytest.approx(expected, abs=0.002)
        assert one["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_processes_give_the_same_numbers(view, sweep, tmp_path):
    options = ("--heads", "logreg,nearest_mean,mlp", "--set", "epochs=3", "--cv", 3)
    one = sweep(view, *options, "--layers", "late:avg", out=tmp_path / "one")
    two = sweep(view, *options, "--layers", "late:avg", out=tmp_path / "two", jobs=2)

    def strip(found):
        return {
            (c["head"], f["fold"]): {k: v for k, v in f.items() if k != "seconds"}
            for c in found["configurations"]
            for f in c["folds"]
        }

    assert strip(one).keys() == strip(two).keys()
    for key, scores in strip(one).items():
        assert strip(two)[key] == pytest.approx(scores, abs=1e-5)


def test_a_pooling_that_was_not_extracted_is_derived_from_the_map(view, sweep, tmp_path):
    found = sweep(
        *(view, "--layers", "maps", "--poolings", "avg,max,flatten", "--heads", "ridge"),
        *("--cv", 3, "--set", "scale=none"),
    )
    # One channel: a map's mean and maximum are a single feature each.
    values = {"maps:avg": MAPS.mean(axis=(1, 2)), "maps:max": MAPS.max(axis=(1, 2))}
    values["maps:flatten"] = PIXELS
    assert {one["layer"] for one in found["configurations"]} == set(values)
    from sklearn.linear_model import RidgeClassifier

    folds = read_folds(tmp_path / "out")
    for one in found["configurations"]:
        expected = score_plainly(RidgeClassifier(), values[one["layer"]], folds)
        assert one["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_layers_side_by_side_and_files_side_by_side_are_the_stacked_matrix(sweep, tmp_path):
    order = np.random.default_rng(0).permutation(N)[: N - 20]
    first = write_features(tmp_path / "1.h5", {"a": PIXELS}, labels=LABELS, splits=SPLITS)
    second = write_features(
        tmp_path / "2.h5",
        {"b": HALVES[order]},
        labels=["?"] * len(order),
        splits=[""] * len(order),
        numbers=order,
    )
    found = sweep([first, second], "--layers", "a+b", "--heads", "logreg", "--cv", 3)
    folds = read_folds(tmp_path / "out")
    known = np.isin(np.arange(N), order) & (SPLITS != "test")
    assert (folds >= 0).tolist() == known.tolist()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    expected = score_plainly(model, np.hstack([PIXELS, HALVES]), folds)
    assert found["configurations"][0]["accuracy_mean"] == pytest.approx(expected.mean(), abs=0.002)


def test_a_regression_is_ranked_by_r2(sweep, tmp_path):
    data = load_diabetes()
    values, ages = data.data.astype(np.float32), data.target
    labels, columns = ["?"] * len(ages), {"progression": ages}
    path = write_features(
        tmp_path / "d.h5", {"x": values}, labels=labels, splits=[""] * len(ages), columns=columns
    )
    found = sweep(
        *(path, "--task", "regression", "--target", "progression", "--heads", "ridge,knn"),
        *("--set", "alpha=0.1,10", "--cv", 4),
    )
    folds = read_folds(tmp_path / "out", len(ages))
    assert found["metric"] == "r2"
    means = [one["r2_mean"] for one in found["configurations"]]
    assert means == sorted(means, reverse=True)
    for one in found["configurations"]:
        if one["head"] == "ridge":
            model = make_pipeline(StandardScaler(), Ridge(alpha=one["settings"]["alpha"]))
            expected = score_plainly(model, values, folds, ages, scoring="r2")
            assert one["r2_mean"] == pytest.approx(expected.mean(), abs=1e-3)


# Nothing twice


def test_a_second_sweep_fits_nothing_and_a_wider_one_what_is_new(view, sweep):
    options = ("--layers", "late:avg", "--heads", "logreg", "--cv", 3)
    first = sweep(view, *options, "--set", "C=0.1,1")
    again = sweep(view, *options, "--set", "C=0.1,1")
    wider = sweep(view, *options, "--set", "C=0.1,1,10")
    other_seed = sweep(view, *options, "--set", "C=0.1", "--seed", 1)
    assert [found["fitted"] for found in (first, again, wider, other_seed)] == [6, 0, 3, 3]
    assert again["configurations"] == first["configurations"]
    assert len(wider["configurations"]) == 3


def test_changed_features_are_fitted_anew(sweep, tmp_path):
    layers = {"a": PIXELS}
    path = write_features(tmp_path / "v.h5", layers, labels=LABELS, splits=SPLITS)
    options = (path, "--heads", "nearest_mean", "--cv", 2)
    assert sweep(*options)["fitted"] == 2
    write_features(path, layers, labels=LABELS[::-1], splits=SPLITS)
    assert sweep(*options)["fitted"] == 2


def test_a_killed_sweep_goes_on_where_it_was(view, sweep, tmp_path):
    options = (
        *("--layers", "late:avg,early:avg", "--heads", "logreg", "--cv", "5"),
        *("--set", f"C={','.join(str(2.0**k) for k in range(-6, 6))}"),
    )
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [
            *(sys.executable, "run.py", "sweep", "--features", str(view), "--out", str(out)),
            *("--jobs", "1", *options),
        ],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    journal = out / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    n_kept = sum(bool(line) for line in journal.read_text().splitlines())
    with journal.open("a") as stream:
        stream.write('{"key": "torn')
    resumed = sweep(view, *options, out=out)
    whole = sweep(view, *options, out=tmp_path / "whole")
    assert 0 < n_kept < 120
    assert resumed["fitted"] == 120 - n_kept
    assert _scores(resumed) == _scores(whole)
    assert not list(out.glob(".tmp-*"))


@pytest.fixture
def long_sweep(view, tmp_path):
    """Start a sweep of many fits in two processes; returns it once the first fits are kept."""
    out = tmp_path / "long"
    values = ",".join(str(2.0**k) for k in range(-20, 20))
    process = subprocess.Popen(
        [
            *(sys.executable, "run.py", "sweep", "--features", str(view), "--out", str(out)),
            *("--layers", "late:avg,early:avg", "--heads", "logreg,ridge", "--cv", "20"),
            *("--set", f"C={values}", "--set", f"alpha={values}", "--jobs", "2"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal = out / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.005)
    yield process, out
    process.kill()
    process.wait()


def _complaints(process):
    """Wait for the end of all that can write to stderr; returns what is not progress."""
    lines = process.communicate(timeout=60)[1].splitlines()
    return [line for line in lines if "fits/s" not in line]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_leaves_no_process_and_no_scratch(long_sweep, number, status):
    process, out = long_sweep
    os.killpg(process.pid, number)  # as a terminal does
    assert _complaints(process) == ["permafrost: interrupted; what was finished is kept"]
    assert process.returncode == status
    assert {path.name for path in out.iterdir()} == {"journal.jsonl"}


def test_a_killed_process_of_a_sweep_is_one_line(long_sweep):
    process, out = long_sweep
    workers = [
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("LokyProcess" in word for word in child.cmdline())
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    (line,) = _complaints(process)
    assert "fewer --jobs" in line
    assert process.returncode == 3
    assert {path.name for path in out.iterdir()} == {"journal.jsonl"}


def test_processes_end_with_a_killed_sweep(long_sweep):
    process, _ = long_sweep
    os.kill(process.pid, signal.SIGKILL)
    _complaints(process)  # returns when the last process has closed stderr


def _scores(found):
    return {
        (one["layer"], one["settings"]["C"]): [fold["log_loss"] for fold in one["folds"]]
        for one in found["configurations"]
    }


# What may be trusted


def test_test_rows_never_choose(sweep, tmp_path):
    changed = PIXELS.copy()
    changed[SPLITS == "test"] = 7.0
    options = ("--heads", "logreg,nearest_mean", "--cv", 3)
    boards = []
    for name, values in (("a", PIXELS), ("b", changed)):
        path = write_features(tmp_path / f"{name}.h5", {"x": values}, labels=LABELS, splits=SPLITS)
        found = sweep(path, *options, out=tmp_path / name)
        boards.append([(one["head"], one["accuracy_mean"]) for one in found["configurations"]])
    assert boards[0] == boards[1]


def test_the_val_split_chooses_where_there_is_one(sweep, tmp_path):
    splits = np.array(["train", "val", "train", "test"] * (N // 4))
    path = write_features(tmp_path / "v.h5", {"x": PIXELS}, labels=LABELS, splits=splits)
    found = sweep(path, "--heads", "logreg")
    (fold,) = found["configurations"][0]["folds"]
    train, val = splits == "train", splits == "val"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    model.fit(PIXELS[train], LABELS[train])
    assert fold["accuracy"] == pytest.approx(model.score(PIXELS[val], LABELS[val]), abs=0.002)
    assert (fold["n_train"], fold["n_test"]) == (train.sum(), val.sum())
    assert found["configurations"][0]["accuracy_std"] is None


def test_the_table_of_folds_is_read_back_whatever_the_images_are_called(tmp_path):
    names = ["a\rb.png", "c\r\nd.png", 'say "e".png', "f,g.png"]
    rows = np.arange(2)
    write_folds(tmp_path, names, [Fold(rows + 2, rows), Fold(rows, rows + 2)])
    found = read_rows(tmp_path / "folds.csv")
    assert [row["path"] for row in found] == names
    assert [row["fold"] for row in found] == ["0", "0", "1", "1"]


def test_rows_of_a_group_share_a_fold(sweep, tmp_path):
    groups = [f"patient {row // 3}" for row in range(N)]
    path = write_features(
        tmp_path / "g.h5",
        {"x": PIXELS},
        labels=LABELS,
        splits=[""] * N,
        columns={"Group": groups},
    )
    sweep(path, "--heads", "nearest_mean", "--cv", 4)
    folds = read_folds(tmp_path / "out")
    assert all(len(set(folds[row : row + 3])) == 1 for row in range(0, N - 2, 3))


def test_the_best_is_fitted_and_measured_on_the_test_split_once(view, sweep, command, tmp_path):
    found = sweep(view, "--layers", "late:avg", "--heads", "logreg,nearest_mean", "--cv", 3)
    assert found["best_metrics"]["head"] == found["configurations"][0]["head"] == "logreg"
    low, high = found["best_metrics"]["interval"]
    assert low <= found["best_metrics"]["accuracy"] <= high
    test = SPLITS == "test"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=999))
    model.fit(PIXELS[~test], LABELS[~test])
    assert found["best_metrics"]["accuracy"] == model.score(PIXELS[test], LABELS[test])
    assert (tmp_path / "out" / "best" / "model.json").exists()


def test_of_equal_scores_the_lower_log_loss_wins_and_never_the_clock(tmp_path):
    journal = Journal(tmp_path)
    heads = HeadGrid(heads=("logreg",), settings=(("C", "1,2,3"),)).expand("classification")
    configurations = [
        Configuration(layer="a", candidate=one, settings="", key=str(one.settings.C))
        for one in heads
    ]
    found = [([0.9, 0.8], 0.5, 1), ([0.8, 0.9], 0.4, 9), ([0.9, 0.8], 0.5, 0)]
    for one, (scores, loss, seconds) in zip(configurations, found, strict=True):
        for fold, score in enumerate(scores):
            journal.add(
                FoldRecord(
                    key=one.key,
                    fold=fold,
                    scores={"accuracy": score, "log_loss": loss},
                    losses=np.zeros(10, np.bool_),
                    n_train=10,
                    n_test=10,
                    seconds=seconds,
                )
            )
    board = rank(configurations, journal, n_folds=2, task="classification")
    assert [entry.configuration.key for entry in board.entries] == ["2.0", "1.0", "3.0"]


def test_heads_that_differ_by_luck_are_said_to_be_tied(view, sweep, tmp_path):
    sweep(view, "--layers", "late:avg", "--heads", "logreg,nearest_mean", "--set", "C=1,1.01")
    rows = read_rows(tmp_path / "out" / "leaderboard.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["tied_with_first"] for row in rows] == ["yes", "yes", "no"]
    assert rows[0]["p_value"] == ""
    assert float(rows[1]["p_value"]) == 1.0
    assert float(rows[2]["p_value"]) < 0.05
    assert len(read_rows(tmp_path / "out" / "results.csv")) == 15


def test_a_head_that_cannot_be_fitted_costs_only_itself(view, sweep):
    found = sweep(
        *(view, "--layers", "late:avg", "--heads", "knn,logreg", "--cv", 3),
        *("--set", "neighbors=5,5000"),
    )
    *fitted, failed = found["configurations"]
    assert [one["error"] for one in fitted] == [None, None]
    assert "5000" in failed["error"]


# What a person types


def test_a_person_sees_the_table_and_where_the_figures_are(view, command, tmp_path):
    answer = command(
        *("sweep", "--features", view, "--layers", "late:avg", "--heads", "logreg"),
        *("--set", "C=0.1,1", "--cv", 2, "--out", tmp_path / "out", "--jobs", 1),
    )
    assert answer.status == 0
    assert "logreg C=0.1" in answer.out
    assert "leaderboard.csv" in answer.out
    assert "never used for choosing" in answer.out
    assert "4/4 fits" in answer.err


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1, 1", ["0.1", "1"]),
        ("[256],[256,128]", ["[256]", "[256,128]"]),
        ("cat:1,dog:3", ["cat:1,dog:3"]),
        ("none,cat:1,dog:3,balanced", ["none", "cat:1,dog:3", "balanced"]),
        ("[cat:1],[cat:1,dog:3]", ["[cat:1]", "[cat:1,dog:3]"]),
    ],
)
def test_lists_of_values_are_split_where_a_person_means_it(text, values):
    assert split_values("name", text) == values


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--heads", "logerg"], "did you mean 'logreg'?"),
        (["--heads", "logreg", "--set", "c=1"], "did you mean 'C'?"),
        (["--heads", "logreg", "--set", "knn.neighbors=1"], "knn"),
        (["--heads", "logreg", "--set", "C=1,,2"], "C=1,,2 has an empty value"),
        (["--heads", "logreg", "--set", "C=1", "--set", "C=2"], "C is given twice"),
        (["--heads", "logreg,"], "--heads 'logreg,'"),
        (["--heads", "logreg", "--jobs", "two"], "sweep --help"),
        (["--heads", "logreg", "--set", "C=1,x"], "C=x"),
        (["--heads", "logreg", "--layers", "lat:avg"], "late:avg"),
        (["--heads", "logreg", "--layers", "maps", "--poolings", "agv"], "did you mean 'avg'?"),
        (["--heads", "logreg", "--task", "regression"], "ridge"),
        (["--heads", "ridge", "--task", "regression"], "not a finite number"),
        (["--heads", "logreg", "--target", "labl"], "label"),
        (["--heads", "logreg", "--cv", "1"], "--cv 2"),
        (["--heads", "logreg", "--cv", "90"], "fewer than 90 folds"),
        (["--heads", "logreg", "--jobs", "0"], "--jobs 0"),
    ],
)
def test_mistakes_are_one_line(view, command, tmp_path, options, says):
    answer = command("sweep", "--features", view, "--out", tmp_path / "out", *options)
    assert answer.status == 2
    assert says in answer.err
    assert answer.err.startswith("permafrost: ") and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("labels", "splits", "says"),
    [
        (["cat"] * N, SPLITS, "labelled 'cat'"),
        (LABELS, ["test"] * N, "--split test=0.3"),
        ([""] * N, SPLITS, "--labels"),
    ],
    ids=["one class", "all in one split", "no label"],
)
def test_datasets_without_an_answer_are_one_line(command, tmp_path, labels, splits, says):
    path = write_features(tmp_path / "v.h5", {"x": PIXELS}, labels=labels, splits=splits)
    answer = command("sweep", "--features", path, "--heads", "logreg", "--out", tmp_path / "out")
    assert (answer.status, answer.err.count("\n")) == (2, 1), answer.err
    assert says in answer.err


def test_nothing_to_do_loads_nothing_heavy(view, sweep, tmp_path):
    options = ["--layers", "late:avg", "--heads", "logreg,mlp", "--set", "epochs=1", "--cv", "2"]
    sweep(view, *options)
    code = (
        "import sys; from permafrost.pipeline.cli.main import main; status = main(sys.argv[1:]);"
        "print(*{'tensorflow', 'keras', 'distributed', 'skops'} & set(sys.modules));"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "sweep", "--features", str(view)),
            *("--out", str(tmp_path / "out"), *options),
        ],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == ""
