"""What the journal keeps for comparing heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.sweeps.grid import Configuration, HeadGrid
from permafrost.pipeline.sweeps.journal import JOURNAL_NAME, FoldRecord, Journal
from permafrost.pipeline.sweeps.leaderboard import rank


def make_record(key: str, evidence: np.ndarray, *, fold: int = 0, **scores: float) -> FoldRecord:
    return FoldRecord(
        key=key, fold=fold, scores={**scores}, evidence=evidence, n_train=8, n_test=4, seconds=0.5
    )


@pytest.mark.parametrize("evidence", [np.array([0, 3, 1]), np.array([0.25, np.nan, -1e-300])])
def test_evidence_comes_back_as_it_was(tmp_path: Path, evidence: np.ndarray) -> None:
    Journal(tmp_path).add(make_record("a", evidence))
    found = Journal(tmp_path).find("a", 0)
    assert found is not None
    assert found.evidence.dtype == evidence.dtype
    np.testing.assert_array_equal(found.evidence, evidence)


def test_a_line_of_an_earlier_version_is_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / JOURNAL_NAME).write_text(
        '{"key": "a", "fold": 0, "scores": {}, "losses": "", "wrong_only": true, "n_train": 8,'
        ' "n_test": 0, "seconds": 1}\n'
    )
    assert Journal(tmp_path).find("a", 0) is None
    assert "1 lines" in caplog.text
    assert "another version" in caplog.text


def test_the_p_value_is_of_the_mean_over_folds(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    heads = HeadGrid(heads=("ridge",), settings=(("alpha", "1,2,3"),)).expand("regression")
    configurations = [
        Configuration(layer="x", candidate=one, settings="", key=str(one.settings.alpha))
        for one in heads
    ]
    noise = np.random.default_rng(0).normal(size=(2, 999)) / 100
    for one, mean in zip(configurations, (0.5, 0.499, 0.3), strict=True):
        for fold in (0, 1):
            drawn = mean / 2 + noise[fold] * one.candidate.settings.alpha
            journal.add(make_record(one.key, drawn, fold=fold, r2=mean + (fold - 0.5) / 10))
    board = rank(configurations, journal, n_folds=2, task="regression")
    differences = noise.sum(axis=0) * -1, noise.sum(axis=0) * -2
    expected = [
        (1 + np.sum(np.abs(scatter) >= gap)) / 1000
        for scatter, gap in zip(differences, (0.001, 0.2), strict=True)
    ]
    assert [entry.p_value for entry in board.entries[1:]] == pytest.approx(expected)
    assert [entry.is_tied for entry in board.entries] == [True, True, False]
