"""Ranks, ties, and the tables of a sweep."""

from __future__ import annotations

import json

import numpy as np
import pytest

from permafrost.pipeline.sweeps.grid import Configuration, HeadGrid
from permafrost.pipeline.sweeps.journal import FoldRecord, Journal
from permafrost.pipeline.sweeps.leaderboard import rank, write_folds
from permafrost.stages.evaluation.folds import Fold
from tests.helpers.sweeps import read_rows


def test_the_table_of_folds_is_read_back_whatever_the_images_are_called(tmp_path):
    names = ["a\rb.png", "c\r\nd.png", 'say "e".png', "f,g.png"]
    rows = np.arange(2)
    write_folds(tmp_path, names, [Fold(rows + 2, rows), Fold(rows, rows + 2)])
    found = read_rows(tmp_path / "folds.csv")
    assert [row["path"] for row in found] == names
    assert [row["fold"] for row in found] == ["0", "0", "1", "1"]


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
                    evidence=np.zeros(10, np.int64),
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


def test_each_score_has_the_interval_of_its_rows_drawn_anew(view, sweep, tmp_path):
    sweep(view, "--layers", "late:avg,early:avg", "--heads", "logreg,nearest_mean")
    out = tmp_path / "out"
    rows = read_rows(out / "leaderboard.csv")
    configurations = json.loads((out / "sweep.json").read_text())["configurations"]
    n_rows = sum(fold["n_test"] for fold in configurations[0]["folds"])
    for row, one in zip(rows, configurations, strict=True):
        low, high = float(row["interval_low"]), float(row["interval_high"])
        assert [low, high] == pytest.approx(one["interval"], rel=1e-5)
        # No two images of this set are alike: a share of so many rows, by the normal distribution.
        share = float(row["accuracy_mean"])
        width = 2 * 1.96 * np.sqrt(share * (1 - share) / n_rows)
        assert low < share < high
        assert high - low == pytest.approx(width, rel=0.2)
