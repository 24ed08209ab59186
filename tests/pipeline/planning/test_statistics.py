"""``index --stats``: the training images' sizes, and their figures for ``--preprocess``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.answers import Command
from tests.helpers.inputs import write_photos


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Photos of two sizes and a grey one, some of them in the test split."""
    root = tmp_path / "mixed"
    write_photos(root / "train", n_each=40)
    write_photos(root / "test", n_each=3, side=90)
    Image.effect_noise((31, 47), 60).save(root / "train/china/grey.png")
    return root


def test_figures_are_those_of_all_training_pixels(
    command: Command, mixed: Path, tmp_path: Path
) -> None:
    (mixed / "train/flower/broken.jpg").write_text("no image")
    answer = command("index", mixed, "--out", tmp_path / "m.csv", "--stats", "--json")
    found = answer.figures["stats"]
    images = [
        np.asarray(Image.open(file).convert("RGB"))
        for file in sorted(mixed.glob("train/*/*"))
        if file.stem != "broken"
    ]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    assert (found["images"], found["unreadable"]) == (81, 1)
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(found["std"], pixels.std(axis=0), rtol=1e-10)
    assert (found["width"], found["height"]) == ([31, 60, 60], [47, 60, 60])
    mean, std = (
        ",".join(f"{value:.3f}" for value in values)
        for values in (pixels.mean(axis=0), pixels.std(axis=0))
    )
    assert found["preprocess"] == f"mean={mean},std={std}"
    said = command("index", mixed, "--out", tmp_path / "m.csv", "--stats").out
    assert f"--preprocess mean={mean},std={std}\n" in said
    assert "81 training images, 1 unreadable: width 31 to 60, median 60; height 47 to 60" in said


def test_the_text_is_what_preprocess_takes(
    extract: Command, command: Command, photos: Path, tmp_path: Path
) -> None:
    for file in photos.glob("*/*.jpg"):
        Image.new("RGB", (8, 8), (0, 128, 255)).save(file, quality=100, subsampling=0)
    answer = command("index", photos, "--out", tmp_path / "m.csv", "--stats", "--json")
    text = answer.figures["stats"]["preprocess"]
    assert text.endswith("std=1.000,1.000,1.000")
    assert extract("--preprocess", text, layers="first").figures["computed"] == 1


def test_where_no_training_image_can_be_read_it_is_one_line(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    for file in photos.glob("*/*.jpg"):
        file.write_text("no image")
    answer = command("index", photos, "--out", tmp_path / "m.csv", "--stats")
    assert answer.status == 2
    assert answer.err.endswith("none of the 12 training images can be read; drop --stats\n")
    plain = command("index", photos, "--out", tmp_path / "m.csv", "--json").figures
    assert "stats" not in plain
