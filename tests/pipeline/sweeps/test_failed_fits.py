"""A fit that fails is one row; a folder of tables tells of one sweep."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.cache.errors import DamagedError
from permafrost.stages.heads import HEADS
from tests.helpers.views import write_features

N = 200
DIGITS = load_digits()
X = DIGITS.data[:N].astype(np.float32)
NAMES = [str(digit) for digit in DIGITS.target[:N] % 2]

Sweep = Callable[..., Any]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    broken = X.copy()
    broken[7, 3] = np.nan
    layers = {"late:avg": X, "broken:avg": broken}
    path = tmp_path_factory.mktemp("failed") / "features.h5"
    return write_features(path, layers, labels=NAMES, splits=[""] * N)


@pytest.fixture
def sweep(command: Any, view: Path, tmp_path: Path) -> Sweep:
    def call(*options: object, layers: str = "late:avg", heads: str = "ridge,nearest_mean") -> Any:
        return command(
            *("sweep", "--features", view, "--layers", layers, "--heads", heads, "--cv", 3),
            *("--out", tmp_path / "out", "--jobs", 1, "--json", *options),
        )

    return call


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def break_ridge(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every fit of a ridge raise, as a library may."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setitem(HEADS, "ridge", dataclasses.replace(HEADS["ridge"], fit=fail))


def test_weights_of_classes_called_by_numbers_do_not_end_a_sweep(sweep: Sweep) -> None:
    answer = sweep("--set", "class_weight=0:1,1:5", heads="logreg,linear_svm,ridge")
    assert [one["error"] for one in answer.figures["configurations"]] == [None] * 3


def test_any_error_of_a_fit_is_one_row_and_is_tried_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_ridge(patch, ValueError("no\nsuch luck"))
        found = sweep().figures
        assert found["fitted"] == 6
    said = "ValueError: no such luck (test_failed_fits.py, line "
    fitted, failed = found["configurations"]
    assert fitted["head"] == "nearest_mean"
    assert fitted["error"] is None
    assert failed["error"].startswith("failed: " + said)
    rows = read_rows(tmp_path / "out" / "leaderboard.csv")
    assert [(row["head"], row["error"][:8]) for row in rows] == [
        ("nearest_mean", ""),
        ("ridge", "failed: "),
    ]
    errors = [row["error"] for row in read_rows(tmp_path / "out" / "results.csv")]
    assert [error.startswith(said) for error in errors] == [False] * 3 + [True] * 3
    lines = (tmp_path / "out" / "journal.jsonl").read_text().split("\n")
    assert sum("ValueError:" in line for line in lines) == 3
    again = sweep().figures
    assert again["fitted"] == 3
    assert [one["error"] for one in again["configurations"]] == [None, None]
    assert sweep().figures["fitted"] == 0


def test_a_sweep_of_which_every_fit_fails_is_one_line(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_ridge(monkeypatch, ValueError("no such luck"))
    answer = sweep(heads="ridge")
    assert answer.status == 2
    lines = [line for line in answer.err.splitlines() if line.startswith("permafrost:")]
    assert len(lines) == 1
    assert "none of 1 heads could be fitted" in lines[0]
    assert "no such luck" in lines[0]
    assert "Traceback" not in answer.err
    assert len(read_rows(tmp_path / "out" / "results.csv")) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 75),
        (OSError(errno.ENOSPC, "No space left"), 75),
        (OSError(errno.EROFS, "Read-only file system"), 3),
        (DamagedError("a shard is altered"), 3),
    ],
    ids=str,
)
def test_what_is_not_the_fits_fault_stops_the_sweep(
    error: Exception, status: int, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_ridge(monkeypatch, error)
    assert sweep().status == status


def test_an_interrupt_stops_the_sweep(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    break_ridge(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        sweep()


@pytest.mark.parametrize("heads", ["nearest_mean,sgd", "nearest_mean"])
def test_a_layer_with_broken_rows_costs_only_itself(heads: str, sweep: Sweep) -> None:
    found = sweep(layers="broken:avg,late:avg", heads=heads).figures
    said = {one["layer"]: one["error"] for one in found["configurations"]}
    assert said["late:avg"] is None
    assert "rows of features hold NaN" in said["broken:avg"]


def test_broken_rows_that_are_reduced_cost_only_themselves(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that 64 features of 200 rows are wide.
    monkeypatch.setattr("permafrost.stages.matrices.budget.SMALL", 0)
    monkeypatch.setattr("permafrost.stages.matrices.budget.WIDE", 0)
    found = sweep(layers="broken:avg,late:avg", heads="ridge").figures
    said = {one["layer"]: one["error"] for one in found["configurations"]}
    assert said["late:avg"] is None
    assert "hold NaN" in said["broken:avg"]


def test_the_table_of_folds_is_that_of_the_other_tables(sweep: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "out" / "folds.csv"
    tables = []
    for seed in (0, 1, 0):
        found = sweep("--seed", seed).figures
        tables.append(file.read_text())
    assert found["fitted"] == 0
    assert tables[0] == tables[2] != tables[1]


def test_a_setting_that_is_gone_is_one_line(sweep: Sweep) -> None:
    answer = sweep("--set", "batch_size=16", heads="sgd")
    assert answer.status == 2
    assert "sgd has no setting batch_size any more" in answer.err


def test_the_journal_reads_lines_of_failures_as_nothing_found(tmp_path: Path, sweep: Sweep) -> None:
    sweep(heads="ridge")
    file = tmp_path / "out" / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().split("\n") if line]
    file.write_text("\n".join(json.dumps(line | {"error": "no luck"}) for line in lines))
    assert sweep(heads="ridge").figures["fitted"] == 3
