"""Whole folders and files from someone else, as the commands meet them."""

from __future__ import annotations

import json

import pytest

from permafrost.stages.errors import StageError
from permafrost.stages.heads import load_head
from tests.helpers.hostile import EVIDENCE
from tests.helpers.hostile_heads import ESTIMATORS, NETWORKS, write_head

CASES = [("logreg", what) for what in ESTIMATORS] + [("mlp", what) for what in NETWORKS]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return {kind: write_head(tmp_path_factory.mktemp(kind), kind) for kind in ("logreg", "mlp")}


@pytest.mark.parametrize(("kind", "what"), CASES)
def test_a_hostile_head_is_refused_in_one_line_and_runs_nothing(
    kind, what, heads, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "head"
    folder.mkdir()
    for file in heads[kind].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    load_head(folder)
    (ESTIMATORS if kind == "logreg" else NETWORKS)[what](folder)
    with pytest.raises(StageError) as caught:
        load_head(folder)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(EVIDENCE))


@pytest.fixture
def model(command, extract, tmp_path):
    """A fitted classifier, as ``fit`` leaves it."""
    assert extract("--split", "test=0.3").status == 0
    fitted = command(
        *("fit", "--features", tmp_path / "features.h5", "--layer", "last:avg"),
        *("--head", "logreg", "--out", tmp_path / "model"),
    )
    assert fitted.status == 0, fitted.err
    return tmp_path / "model"


def test_a_model_from_someone_else_learns_nothing_from_files_of_mine(model, command, tmp_path):
    secret = tmp_path / "secret.keras"
    secret.write_text("not to be told")
    record = json.loads((model / "model.json").read_text())
    record["parts"][0]["features"]["backbone"] = str(secret)
    (model / "model.json").write_text(json.dumps(record))
    images, out = tmp_path / "photos", tmp_path / "p.csv"
    answer = command("predict", "--model", model, "--images", images, "--out", out)
    assert answer.status == 2
    assert repr(str(secret)) in answer.err
    assert "told" not in answer.err


def test_names_that_are_formulas_stay_names_from_the_images_to_the_tables(
    command, extract, photos, tmp_path
):
    (photos / "china").rename(photos / "=china")
    (photos / "=china" / "0000.jpg").rename(photos / "=china" / "@0.jpg")
    (photos / "=china" / "broken.jpg").write_bytes(b"=1+1")
    assert extract("--split", "test=0.3").figures["failed"] == 1
    manifest = tmp_path / "manifest.csv"
    assert command("index", photos, "--out", manifest).status == 0
    again = extract("--manifest", manifest, images=None, out=tmp_path / "again.h5")
    assert again.figures["computed"] == 0
    swept = command(
        *("sweep", "--features", tmp_path / "features.h5", "--heads", "ridge", "--cv", "2"),
        *("--out", tmp_path / "sweep"),
    )
    assert swept.status == 0, swept.err
    tables = [*tmp_path.rglob("*.csv")]
    assert len(tables) >= 6
    for table in tables:
        for line in table.read_text().splitlines():
            assert not [cell for cell in line.split(",") if cell.strip('"')[:1] in ("=", "@")]
    assert "./=china/@0.jpg,'=china" in manifest.read_text()


def test_what_a_file_says_at_length_is_cut_to_a_line(command, tmp_path):
    (tmp_path / "labels.csv").write_text("x" * 100_000 + "\n")
    answer = command("index", tmp_path / "labels.csv", "--out", tmp_path / "manifest.csv")
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 2100
    assert "has no column path" in answer.err
