"""``show THING``: every thing of ours as a table, and as the JSON that is true of it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from permafrost.pipeline.tables import Table, render
from tests.helpers.answers import Command
from tests.helpers.folders import find_shards

LAYER = "last:avg"
Show = Callable[[object], tuple[dict[str, Any], str]]


@pytest.fixture
def show(command: Command) -> Show:
    """Return what is said of a thing as JSON, and as text."""

    def call(thing: object) -> tuple[dict[str, Any], str]:
        return command("show", thing, "--json").figures, command("show", thing).out

    return call


@pytest.fixture
def view(extract: Command, photos: Path, tmp_path: Path) -> Path:
    (photos / "china/bad.jpg").write_text("no image")
    assert extract("--split", "test=0.3").status == 0
    return tmp_path / "features.h5"


def test_a_cache_says_of_each_set_what_it_holds_and_what_was_measured(
    view: Path, show: Show, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first, last = sorted(cache.glob("mobilenet*/*/recipe.json"), key=lambda file: file.parent.name)
    month_ago = time.time() - 30.5 * 24 * 3600
    os.utime(first, (month_ago, month_ago))
    (last.parent / "parity.json").write_text(
        json.dumps({"reference": "x", "images": 8, "max_error": 3e-3, "mean_error": 1e-4})
    )
    figures, text = show(cache)
    by_layer = {one["recipe"]["layer"]: one for one in figures["feature_sets"]}
    for name, file in (("first", first), ("last", last)):
        one = by_layer[name]
        assert one["rows"] == 12
        assert one["bytes"] == sum(shard.stat().st_size for shard in file.parent.glob("shard-*"))
        assert one["name"] == f"{file.parent.parent.name}/{file.parent.name}"
        assert one["name"] in text
        assert 0 <= one["drift"] < 1e-4
    assert by_layer["first"]["idle_days"] == pytest.approx(30.5, abs=0.1)
    assert (by_layer["first"]["parity"], by_layer["last"]["parity"]) == (None, 3e-3)
    assert "30 days ago" in text and "3e-03" in text and "tensorflow float32" in text
    assert figures["bytes"] == sum(one["bytes"] for one in figures["feature_sets"])


def test_damage_in_a_cache_is_a_line_and_no_end(view: Path, show: Show, tmp_path: Path) -> None:
    shard = find_shards(tmp_path / "cache")[0]
    shard.write_bytes(shard.read_bytes()[:100])
    figures, text = show(tmp_path / "cache")
    assert [one["damage"] is None for one in figures["feature_sets"]] == [False, True]
    assert "damaged" in text and "see verify and repair" in text


def test_a_features_file_says_what_its_rows_are_and_what_could_not_be_read(
    view: Path, show: Show, photos: Path
) -> None:
    figures, text = show(view)
    assert (figures["what"], figures["images"], figures["failed"]) == ("features", 12, 1)
    assert figures["labels"] == {"china": 6, "flower": 6}
    assert figures["splits"] == {"test": 4, "train": 8}
    assert figures["root"] == str(photos)
    assert figures["recipes"][LAYER]["preprocess"] == "tf"
    for told in ("1 image could not be read", "china/bad.jpg", "mobilenet_small", "32x32"):
        assert told in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert (rows["china"], rows["all"]) == (["4", "2", "6"], ["8", "4", "12"])


def test_a_model_says_what_it_is_and_what_it_was_fitted_on(
    view: Path, show: Show, command: Command, tmp_path: Path, backbone: Path
) -> None:
    out = tmp_path / "runs/logreg"
    fit = ("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--set", "C=0.5")
    metrics = command(*fit, "--out", out, "--json").figures
    figures, text = show(out)
    assert (figures["what"], figures["head"], figures["layer"]) == ("model", "logreg", LAYER)
    assert figures["settings"]["C"] == 0.5
    assert (figures["files"], figures["backbones"]) == ([str(view)], [str(backbone)])
    assert figures["metrics"] == metrics
    for told in ("C=0.5", "china, flower", str(view), "16 features", "test: accuracy"):
        assert told in text
    (out / "model.json").write_text("{}")
    answer = command("show", out)
    assert (answer.status, "is damaged" in answer.err) == (2, True)


def test_a_sweep_shows_its_leaderboard_with_the_settings_that_differ(
    view: Path, show: Show, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    sweep = ("sweep", "--features", view, "--heads", "ridge,logreg", "--set", "C=0.1,1")
    asked = ("--layers", LAYER, "--cv", "2", "--jobs", "1", "--out", out)
    assert command(*sweep, *asked).status == 0
    figures, text = show(out)
    written = json.loads((out / "sweep.json").read_text())
    assert {name: figures[name] for name in written} == written
    assert figures["what"] == "sweep"
    lines = [line.split() for line in text.splitlines()]
    heads = {" ".join(line[7:]) for line in lines if line[:1] in (["1"], ["2"], ["3"])}
    assert any("ridge" in head for head in heads)
    assert text.count("logreg C=0.1") == text.count("logreg C=1.0") == 1
    assert "alpha=" not in text


def test_a_run_shows_all_that_it_did_by_its_folder_or_its_file(
    show: Show, command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        f"images: {photos}\nsplit: {{test: 0.3}}\ncache: {tmp_path / 'cache'}\n"
        f"backbones: [{{name: {backbone}, layers: ['{LAYER}']}}]\n"
        f"heads: [{{kind: ridge}}]\ncv: 2\nout: {tmp_path / 'out'}\n"
        f"predict: [{{images: {photos}, out: {tmp_path / 'new.csv'}}}]\n"
    )
    answer = command("show", file)
    assert (answer.status, "has left nothing in" in answer.err) == (2, True)
    assert command("run", file).status == 0
    figures, text = show(file)
    told = [figures["extractions"][0]["images"], figures["predictions"][0]["images"]]
    assert told == [12, 12]
    assert str(tmp_path / "new.csv") in text and "ridge" in text
    assert show(tmp_path / "out")[0]["what"] == "run"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.json", "{}"),
        ("model.json", "nonsense"),
        ("sweep.json", '{"metric": "accuracy"}'),
        ("sweep.json", '{"metric": "accuracy", "configurations": [3]}'),
        ("summary.json", '{"metric": "accuracy", "configurations": [], "extractions": [1]}'),
        ("summary.json", '{"metric": "accuracy", "configurations": [], "best_metrics": {}}'),
    ],
)
def test_what_is_damaged_is_one_line(
    command: Command, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    answer = command("show", tmp_path)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "is damaged" in answer.err and str(tmp_path) in answer.err


def test_a_manifest_counts_its_rows(
    show: Show, command: Command, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "manifest.csv"
    command("index", photos, "--out", out, "--split", "test=0.5")
    figures, text = show(out)
    assert (figures["what"], figures["images"], figures["hashed"]) == ("manifest", 12, 12)
    assert figures["splits"] == {"test": 6, "train": 6}
    assert "china" in text and "12 images" in text


def test_what_is_nothing_of_ours_is_refused_with_what_can_be_shown(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    for thing, said in (
        (photos, "is nothing that show knows"),
        (tmp_path / "no", "there is no"),
        (Path(__file__), "is nothing that show knows"),
    ):
        answer = command("show", thing)
        assert (answer.status, answer.err.count("\n")) == (2, 1)
        assert said in answer.err and str(thing) in answer.err and "manifest.csv" in answer.err


def test_tables_are_plain_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(header=("name", ">n"), rows=[("a[bold]", "1"), ("b" * 300, "20")])
    text = render(["all of it", table])
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "all of it"
    assert [line.split() for line in lines[1:]] == [
        ["name", "n"], ["a[bold]", "1"], ["b" * 300, "20"]
    ]  # fmt: skip
    assert len({len(line) for line in lines[1:]}) == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in render([table])
    plain = re.sub(r"\x1b\[\d*m", "", render([table]))
    assert max(map(len, plain.splitlines())) <= 60
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render([table])
