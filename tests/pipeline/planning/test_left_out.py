"""Nothing is dropped or trained on untold: the same in `index`, `plan`, `extract` and `run`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from permafrost.cache.views.features import Features
from permafrost.pipeline.experiments.experiment import read_experiment
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_command_counts_what_lies_beside_the_images(
    command: Command,
    extract: Command,
    photos: Path,
    backbone: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("china/1.heic", "china/2.heic", "china/notes.txt"):
        (photos / name).write_bytes(b"1")
    (photos / "cow").mkdir()
    told = {
        "files": 2,
        "suffixes": {".heic": 2},
        "folders": {"china": 2},
        "empty_folders": ["cow"],
    }
    answers = [
        command("index", photos, "--out", photos.parent / "m.csv", "--json"),
        command(
            *("plan", "--images", photos, "--backbone", backbone, "--layers", LAYERS),
            *("--cache", photos.parent / "cache", "--json"),
        ),
        extract(),
    ]
    for answer in answers:
        assert answer.figures["images"] == 12
        assert answer.figures["ignored"] == told
    warned = [line.partition(": ")[2] for line in caplog.messages]
    assert [line[:20] for line in warned] == ["2 files are left out", "folders without any "] * 3


def write_table(photos: Path, *rows: str) -> Path:
    table = photos / "t.csv"
    table.write_text("path,label,split\n" + "".join(f"{row}\n" for row in rows))
    return table


def test_a_missing_file_costs_its_row_or_stops_the_run(
    extract: Command, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_table(photos, "china/0000.jpg,a,", "gone.jpg,b,", "flower\\0001,c,")
    out = tmp_path / "features.h5"
    answer = extract(images=table)
    assert (answer.figures["images"], answer.figures["failed"]) == (3, 1)
    assert "1 of the 3 files" in caplog.messages[0]
    with Features(out) as features:
        assert features.paths == ["china/0000.jpg", "flower/0001.jpg"]
        assert features.labels == ["a", "c"]
    assert read_rows(Path(f"{out}.failures.csv")) == [
        {"path": "gone.jpg", "reason": "no such file or directory"}
    ]
    stopped = extract("--on-error", "fail", images=table)
    assert stopped.status == 3
    assert "cannot read 'gone.jpg': no such file or directory" in stopped.err


def test_a_split_of_no_known_name_is_refused_everywhere(
    command: Command, extract: Command, photos: Path, tmp_path: Path
) -> None:
    table = write_table(photos, "china/0000.jpg,a,train", "china/0001.jpg,a,Holdout")
    for answer in (
        command("index", table, "--out", tmp_path / "m.csv"),
        extract(images=table),
        extract("--manifest", table, images=None),
    ):
        assert answer.status == 2
        assert "'Holdout' (1); say what each is, as in --split-names 'Holdout=test'" in answer.err
    named = ("--split-names", "holdout=test")
    figures = command("index", table, "--out", tmp_path / "m.csv", *named, "--json").figures
    assert figures["splits"] == {"test": 1, "train": 1}
    assert extract(*named, "--manifest", table, images=None).figures["failed"] == 0
    with Features(tmp_path / "features.h5") as features:
        assert features.splits == ["train", "test"]
    drawn = command("index", table, "--out", tmp_path / "m.csv", "--split", "none", "--json")
    assert drawn.figures["splits"] == {"": 2}


def test_a_head_is_not_fitted_on_a_split_of_no_known_name(
    command: Command,
    extract: Command,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features that are there already may have one."""
    rows = [f"{label}/{n:04d}.jpg,{label},train" for label in ("china", "flower") for n in range(5)]
    table = write_table(photos, *rows, "china/0005.jpg,china,holdout")
    with monkeypatch.context() as patch:
        patch.setattr("permafrost.stages.datasets.splits.check_splits", lambda *_, **__: None)
        assert extract(images=table).status == 0
    fit = ("fit", "--layer", "last:avg", "--head", "logreg", "--out", tmp_path / "model")
    answer = command(*fit, "--features", tmp_path / "features.h5")
    assert answer.status == 2
    assert "'holdout' (1); extract again and say what each is" in answer.err


def test_predict_asks_for_no_splits(
    command: Command, extract: Command, photos: Path, tmp_path: Path
) -> None:
    extract("--split", "test=0.3")
    model, out = tmp_path / "model", tmp_path / "new.csv"
    fit = ("fit", "--layer", "last:avg", "--head", "logreg", "--out", model)
    assert command(*fit, "--features", tmp_path / "features.h5").status == 0
    for split in ("train", "holdout"):
        (photos.parent / "new" / split).mkdir(parents=True)
        (photos / "china").rename(photos.parent / "new" / split / "china")
        if split == "train":
            (photos / "flower").rename(photos / "china")
    predict = ("predict", "--model", model, "--out", out, "--cache", tmp_path / "cache")
    answer = command(*predict, "--images", photos.parent / "new", "--json")
    assert answer.figures["images"] == 12
    assert {row["label"] for row in read_rows(out)} == {"china"}


@pytest.mark.parametrize("names", ["{holdout: test, eval: val}", "holdout=test,eval=val"])
def test_an_experiment_names_splits_too(names: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        f"images: photos\nsplit_names: {names}\nout: runs\n"
        "backbones: [{name: vgg16, layers: [fc1]}]\nheads: [{kind: logreg}]\n"
    )
    assert read_experiment(file).dataset.split_names == "holdout=test,eval=val"


def test_the_figures_of_a_run_are_json(extract: Command) -> None:
    empty = {"files": 0, "suffixes": {}, "folders": {}, "empty_folders": []}
    assert json.loads(json.dumps(extract().figures["ignored"])) == empty
