"""`run` ranks heads by folds or the val split, and never by the test split."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helpers.answers import Command
from tests.helpers.inputs import write_photos

HEADS = [{"kind": "ridge", "alpha": [0.001, 1, 1000]}, {"kind": "nearest_mean"}]


@pytest.fixture
def run(command: Command, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run an experiment in a folder of its own; returns what was printed."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", n_each=20)

    def call(**replaced: object):
        content = {
            "images": "photos",
            "split": {"test": 0.3},
            "cache": "cache",
            "backbones": [{"name": str(backbone), "layers": ["first:avg"]}],
            "heads": HEADS,
            "jobs": 1,
            "out": "runs",
        }
        Path("experiment.yaml").write_text(yaml.safe_dump(content | replaced))
        answer = command("run", "experiment.yaml", "--json")
        return answer.figures["configurations"], answer

    return call


def rank(found):
    return [(-round(one["accuracy_mean"], 9), round(one["log_loss_mean"], 9)) for one in found]


def test_without_cv_and_val_heads_are_ranked_by_five_folds(run, command):
    found, answer = run()
    assert [len(one["folds"]) for one in found] == [5] * 4
    assert rank(found) == sorted(rank(found))
    assert answer.figures["fitted"] == 4 * 5
    assert run()[1].figures["fitted"] == 0
    assert "28 rows in 5 folds" in command("run", "experiment.yaml").out


def test_the_val_split_ranks_where_there_is_one(run, command):
    found, _ = run(split={"test": 0.3, "val": 0.3})
    assert [[fold["n_test"] for fold in one["folds"]] for one in found] == [[12]] * 4
    assert rank(found) == sorted(rank(found))
    assert "12 val rows" in command("run", "experiment.yaml").out


def test_a_lone_head_is_measured_on_the_test_split_too(run):
    (_,), answer = run(heads=[{"kind": "nearest_mean"}])
    assert answer.figures["best_metrics"]["n_test"] == 12


def test_a_group_column_reaches_split_and_folds(run, tmp_path, caplog):
    names = sorted(path.relative_to("photos") for path in Path("photos").rglob("*.jpg"))
    rows = [f"{name},{name.parent},p{number // 2}" for number, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,patient", *rows]))
    run(labels="csv:table.csv", group="patient")
    assert not [text for text in caplog.messages if "patient" in text]
    run(labels="csv:table.csv")
    assert [text for text in caplog.messages if "--group patient" in text]
