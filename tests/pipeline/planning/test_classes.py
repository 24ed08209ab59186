"""``--classes``: only the images with these labels, wherever the labels come from."""

from __future__ import annotations

import csv
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import write_photos

CHOSEN = ("--classes", "flower,boat", "--split", "test=0.25")


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Photos of three classes, 8 of each."""
    root = write_photos(tmp_path / "three", n_each=16)
    (root / "boat").mkdir()
    for number in range(8, 16):
        (root / f"china/{number:04d}.jpg").rename(root / f"boat/{number:04d}.jpg")
        (root / f"flower/{number:04d}.jpg").unlink()
    return root


def pack(root: Path, kind: str) -> Path:
    """Put the photos into a container of a kind."""
    place = root.parent / f"packed.{kind}"
    if kind == "zip":
        shutil.make_archive(str(place.with_suffix("")), "zip", root)
    elif kind == "tar":
        with tarfile.open(place, "w") as packed:
            packed.add(root, "three")
    elif kind == "csv":
        lines = [f"three/{p.parent.name}/{p.name},{p.parent.name}" for p in root.glob("*/*.jpg")]
        place.write_text("\n".join(["path,label", *sorted(lines)]))
    elif kind == "npz":
        y = np.repeat([3, 7, 9], 8)
        x = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
        np.savez(place, x_train=x, y_train=y)
    else:
        return root
    return place


def index(command: Command, source: Path, *options: object) -> tuple[Answer, list[dict[str, str]]]:
    out = source.parent / "manifest.csv"
    answer = command("index", source, "--out", out, "--json", *options)
    with out.open(newline="") as stream:
        return answer, list(csv.DictReader(stream))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "csv"])
def test_classes_are_selected_before_splits_are_drawn(
    command: Command, three: Path, kind: str
) -> None:
    answer, rows = index(command, pack(three, kind), *CHOSEN)
    assert answer.figures["labels"] == {"boat": 8, "flower": 8}
    counts = Counter((row["label"], row["split"]) for row in rows)
    assert counts == {(n, s): k for n in ("boat", "flower") for s, k in (("train", 6), ("test", 2))}
    shutil.rmtree(three / "china")
    alone = index(command, pack(three, kind), "--split", "test=0.25")[1]
    assert [(row["path"], row["split"]) for row in rows] == [
        (row["path"], row["split"]) for row in alone
    ]


def test_classes_of_arrays_are_their_numbers(command: Command, three: Path) -> None:
    answer, _ = index(command, pack(three, "npz"), "--classes", "9, 3")
    assert answer.figures["labels"] == {"3": 8, "9": 8}


def test_classes_of_a_manifest_are_selected(
    extract: Command, command: Command, three: Path, tmp_path: Path
) -> None:
    index(command, three)
    options = ("--manifest", tmp_path / "manifest.csv", "--size", "16", *CHOSEN)
    answer = extract(*options, images=None, model="none", layers="pixels")
    assert answer.figures["images"] == answer.figures["computed"] == 16
    more = extract("--size", "16", images=three, model="none", layers="pixels")
    assert (more.figures["images"], more.figures["computed"]) == (24, 8)
    plan = command(
        *("plan", "--images", three, "--backbone", "none", "--size", "16", "--layers", "pixels"),
        *("--cache", tmp_path / "cache", "--classes", "china", "--json"),
    )
    assert plan.figures["images"] == 8


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("flower,chins", "unknown class 'chins' in '{root}'; did you mean 'china'?"),
        ("dog", "unknown class 'dog' in '{root}'; there are: boat, china, flower"),
        ("a,,b", "'a,,b' has an empty name"),
    ],
)
def test_an_unknown_class_names_the_nearest(
    command: Command, three: Path, tmp_path: Path, classes: str, said: str
) -> None:
    answer = command("index", three, "--out", tmp_path / "m.csv", "--classes", classes)
    assert answer.status == 2
    assert said.format(root=three) in answer.err
    assert answer.err.count("\n") == 1


def test_images_without_labels_have_no_classes(
    command: Command, three: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "m.csv", "--classes", "china")
    answer = command("index", three / "china", *options)
    assert answer.status == 2
    assert "has a label; drop --classes" in answer.err
