"""`audit`: what is wrong with a folder of digits is found, named and told."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from permafrost.pipeline.audit import pictures
from tests.helpers.views import LAYER, write_features

DIGITS = load_digits()


def read_issues(out: Path) -> list[dict[str, str]]:
    with (out / "issues.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def audit(command, tmp_path):
    """Call ``audit``; returns its figures and the issues."""

    def call(view, *options, layer="pixels", out=tmp_path / "audit"):
        answer = command(
            *("audit", "--features", view, "--layer", layer, "--out", out, "--json", *options)
        )
        return answer.figures, read_issues(out)

    return call


def test_all_that_was_spoilt_is_found(spoil, features, audit, folder, tmp_path):
    figures, issues = audit(features("--split", "test=0.3"))
    found = {(one["kind"], one["path"]): one for one in issues}
    for kind, file in spoil.items():
        if kind != "duplicate":
            assert (kind, file.relative_to(folder).as_posix()) in found, kind
    # The first of the two in the table counts as the original.
    copy = next(one for one in issues if one["kind"] == "duplicate")
    assert {copy["path"], copy["other"]} >= {"one/copy.900.png"}
    assert (float(copy["score"]), "is labelled" in copy["detail"]) == (1, True)
    wrong = found["label", "two/wrong.903.png"]
    assert (wrong["label"], wrong["suggested"]) == ("two", "zero")
    scores = [float(one["score"]) for one in issues]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert list(issues[0]) == ["path", "kind", "score", "label", "suggested", "other", "detail"]
    assert figures["issues"] == len(issues)
    assert sum(figures["kinds"].values()) == len(issues)
    told = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert told["kinds"] == figures["kinds"]
    assert figures["pictures"] == figures["images"] == 123


def test_pictures_are_found_from_another_folder_and_no_others(
    features, audit, command, folder, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    view = features(images=folder.name)
    other = folder.parent / "elsewhere" / folder.name
    other.mkdir(parents=True)
    monkeypatch.chdir(other.parent)
    figures, _ = audit(view)
    assert figures["pictures"] == figures["images"]
    assert str(folder) in command("show", view).out


def test_a_clean_folder_has_few_suspicions(features, audit):
    figures, issues = audit(features())
    kinds = figures["kinds"]
    assert not {"unreadable", "duplicate", "dark", "tiny", "group", "order"} & kinds.keys()
    assert len(issues) < 10


def test_a_table_is_told_to_people(spoil, features, command, tmp_path):
    view = features()
    answer = command(
        *("audit", "--features", view, "--layer", "pixels", "--out", tmp_path / "audit")
    )
    assert answer.status == 0
    assert "suspicions about 123 images" in answer.out
    assert "1.00  duplicate" in answer.out


def test_pictures_are_looked_at_once_whatever_else_is_new(features, audit, folder, monkeypatch):
    view, measured = features(), []
    measure = pictures.measure_picture

    def count(data, **options):
        measured.append(data)
        return measure(data, **options)

    monkeypatch.setattr(pictures, "measure_picture", count)
    first, _ = audit(view)
    assert len(measured) == first["pictures"] == 120
    measured.clear()
    again, _ = audit(view, "--cv", "3")
    assert (measured, again["pictures"]) == ([], 120)
    shutil.copy(folder / "zero" / "0.png", folder / "zero" / "copy.png")
    (folder / "zero" / "0.png").write_bytes((folder / "zero" / "10.png").read_bytes() + b"0")
    third, _ = audit(features())
    assert (len(measured), third["pictures"]) == (1, 121)


def test_nothing_new_writes_nothing(features, command, tmp_path):
    view = features()
    arguments = ("audit", "--features", view, "--layer", "pixels", "--out", tmp_path / "a")
    assert command(*arguments, "--skip-status", "9").status == 0
    assert command(*arguments, "--skip-status", "9").status == 9


def test_pictures_that_moved_are_found_where_images_says(features, audit, folder, tmp_path):
    view = features()
    folder.rename(tmp_path / "moved")
    figures, _ = audit(view)
    assert figures["pictures"] == 0
    assert "name where they are with --images" in figures["notes"][0]
    figures, _ = audit(view, "--images", tmp_path / "moved")
    assert (figures["pictures"], figures["notes"]) == (120, [])


def write_montage(folder: Path, tiles: list[Path]) -> None:
    """Put pictures side by side in one, and write `boxes.csv` with a row for each of them."""
    pictures = [Image.open(tile) for tile in tiles]
    sheet = Image.new("L", (sum(one.width for one in pictures), 48), 255)
    lines, left = ["path,label,box"], 0
    for tile, one in zip(tiles, pictures, strict=True):
        sheet.paste(one, (left, 0))
        lines.append(f'sheet.png,{tile.parent.name},"{left},0,{one.width},{one.height}"')
        left += one.width
    folder.mkdir()
    sheet.save(folder / "sheet.png")
    (folder / "boxes.csv").write_text("\n".join(lines))


def test_boxes_are_measured_as_the_crops_are_that_the_network_saw(
    spoil, features, audit, folder, tmp_path
):
    spoil["unreadable"].unlink()
    Image.open(spoil["label"]).point(lambda level: level // 16).save(spoil["label"])
    tiles = sorted(folder.glob("*/*.png"))
    write_montage(tmp_path / "sheets", tiles)
    _, alone = audit(features("--labels", "folder"))
    view = features(images=tmp_path / "sheets" / "boxes.csv", out=tmp_path / "b.h5")
    figures, issues = audit(view, out=tmp_path / "of-boxes")
    # The near-duplicate among the pictures is the only JPEG, and is not on the sheet.
    assert figures["pictures"] == figures["images"] == len(tiles)

    def tell(found, kinds=("blurred", "dark", "bright", "tiny", "odd_shape")):
        return sorted((one["kind"], one["detail"]) for one in found if one["kind"] in kinds)

    assert {"blurred", "dark", "tiny"} <= {kind for kind, _ in tell(issues)}
    assert tell(issues) == tell(alone)


def test_an_image_that_changed_since_is_not_taken_for_it(features, audit, folder):
    view = features()
    (folder / "zero" / "0.png").write_bytes((folder / "one" / "1.png").read_bytes())
    figures, _ = audit(view)
    assert figures["pictures"] == 119


def test_a_folder_without_labels_is_audited_all_the_same(features, audit, folder, tmp_path):
    for file in folder.glob("*/*.png"):
        file.rename(folder / file.name)
    for name in ("zero", "one", "two"):
        (folder / name).rmdir()
    figures, issues = audit(features())
    assert (figures["labelled"], figures["notes"]) == (0, ["no label was checked: no row has one"])
    assert {one["kind"] for one in issues} <= {"near_duplicate", "outlier", "blurred", "odd_shape"}


def write_digits(file, *, labels, n=400, columns=None):
    values = DIGITS.data[:n].astype(np.float32)
    return write_features(file, {LAYER: values}, labels=labels, splits=[""] * n, columns=columns)


def test_flipped_labels_are_found_among_digits(audit, tmp_path):
    rng, labels = np.random.default_rng(0), DIGITS.target[:400].copy()
    flipped = rng.choice(400, 20, replace=False)
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, 20)) % 10
    view = write_digits(tmp_path / "f.h5", labels=list(map(str, labels)))
    figures, issues = audit(view, layer=LAYER)
    first = [one for one in issues if one["kind"] == "label"][:20]
    rows = {int(one["path"][:4]) for one in first}
    assert len(rows & set(flipped.tolist())) >= 17
    right = [one["suggested"] == str(DIGITS.target[int(one["path"][:4])]) for one in first]
    assert sum(right) >= 16
    assert figures["doubted"] >= 10
    assert 10 <= figures["wrong_labels"] <= 30


def test_a_group_and_an_order_that_leak_are_named(audit, tmp_path):
    rng, labels = np.random.default_rng(0), DIGITS.target[:400].copy()
    site = np.where(np.arange(400) % 4 == 0, "south", "north")
    bad = (site == "south") & (rng.random(400) < 0.5)
    labels[bad] = rng.integers(0, 10, bad.sum())
    columns = {"site": site.tolist(), "number": [str(n) for n in range(400)]}
    view = write_digits(tmp_path / "f.h5", labels=list(map(str, labels)), columns=columns)
    figures, issues = audit(view, layer=LAYER)
    group = next(one for one in issues if one["kind"] == "group")
    assert (group["path"], group["detail"].startswith("site=south: accuracy")) == ("", True)
    assert {one["column"] for one in figures["groups"]} == {"site"}
    order = np.argsort(DIGITS.target[:400], kind="stable")
    write_features(
        tmp_path / "sorted.h5",
        {LAYER: DIGITS.data[:400][order].astype(np.float32)},
        labels=list(map(str, DIGITS.target[:400][order])),
        splits=[""] * 400,
    )
    _, issues = audit(tmp_path / "sorted.h5", layer=LAYER)
    leak = next(one for one in issues if one["kind"] == "order")
    assert "the numbers in the file names tells the label" in leak["detail"]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_tags_and_numbers_that_are_wrong_are_found(audit, tmp_path, task):
    digits = DIGITS.target[:400]
    if task == "multilabel":
        tags = [[f"digit{d}", *(["even"] if d % 2 == 0 else [])] for d in digits.tolist()]
        tags[10].remove("even") if "even" in tags[10] else tags[10].append("even")
        labels = [";".join(one) for one in tags]
    else:
        values = DIGITS.data[:400, :32].sum(axis=1)
        values[10] += 200
        labels = list(map(str, values))
    view = write_digits(tmp_path / "f.h5", labels=labels)
    _, issues = audit(view, "--task", task, layer=LAYER)
    first = [one for one in issues if one["kind"] == "label"][:20]
    wrong = next(one for one in first if one["path"] == "0010.png")
    if task == "multilabel":
        assert wrong["suggested"].endswith("even")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--head", "nonsense"), "nonsense"),
        (("--set", "C=-1"), "C"),
        (("--images", "nowhere/at/all"), "nowhere/at/all"),
        (("--cv", "1"), "folds"),
        (("--cv", "500"), "--cv"),
    ],
)
def test_mistakes_are_one_line(refused, features, tmp_path, options, said):
    view = features()
    arguments = ("--features", view, "--layer", "pixels", "--out", tmp_path / "audit")
    answer = refused("audit", *arguments, "--progress", "none", *options)
    assert said in answer


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_handful_of_rows_is_no_fault(audit, tmp_path, n, labelled):
    labels = [str(digit) if labelled else "" for digit in DIGITS.target[:n]]
    figures, issues = audit(write_digits(tmp_path / "f.h5", labels=labels, n=n), layer=LAYER)
    assert issues == []
    assert figures["notes"][0].startswith("no label was checked")
