"""``search``: by image against scikit-learn's neighbours, by text against KerasHub's own model."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from tests.helpers.answers import Answer, Command
from tests.helpers.extracted import find_shards, read_plain
from tests.helpers.inputs import write_model
from tests.helpers.towers import Reference

N_DIGITS = 120
Search = Callable[..., Answer]


@pytest.fixture
def search(command: Command, tmp_path: Path) -> Search:
    def call(*options: object, layer: str = "last:avg") -> Answer:
        given = ("--features", tmp_path / "features.h5", "--layer", layer)
        return command("search", *given, "--cache", tmp_path / "cache", *options)

    return call


def write_digits(folder: Path) -> list[str]:
    """Write scikit-learn's digits as images, in a folder for each; returns their paths."""
    digits = load_digits()
    paths = []
    for number in range(N_DIGITS):
        path = f"{digits.target[number]}/{number:04d}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / path)
        paths.append(path)
    return sorted(paths)


@pytest.mark.parametrize("layer", ["last:avg", "first+last:avg", "pixels"])
def test_the_nearest_digits_are_those_of_scikit_learn(
    extract: Command, search: Search, tmp_path: Path, layer: str
) -> None:
    paths = write_digits(tmp_path / "digits")
    layers = "first,last:avg,pixels"
    assert extract(images=tmp_path / "digits", layers=layers).status == 0
    terms = [read_plain(tmp_path / "features.h5", term) for term in layer.split("+")]
    values = np.concatenate([part.reshape(N_DIGITS, -1) for part in terms], axis=1)
    known = NearestNeighbors(n_neighbors=8, metric="cosine").fit(values)
    for row in (0, 57):
        image = tmp_path / "digits" / paths[row]
        found = search("--image", image, "-n", 7, "--json", layer=layer).figures
        ((far, places),) = zip(*known.kneighbors(values[row : row + 1]), strict=True)
        assert places[0] == row
        told = found["images"]
        np.testing.assert_allclose([one["similarity"] for one in told], 1 - far[1:], atol=1e-5)
        assert [one["path"] for one in told] == [paths[place] for place in places[1:]]
        assert [one["label"] for one in told] == [one["path"][0] for one in told]
        assert [one["rank"] for one in told] == [1, 2, 3, 4, 5, 6, 7]
        assert (found["layer"], found["compared"]) == (layer, N_DIGITS - 1)


def test_an_image_from_elsewhere_is_sought_like_its_copy(
    extract: Command, search: Search, photos: Path, tmp_path: Path
) -> None:
    assert extract().status == 0
    other = tmp_path / "other.png"
    Image.open(photos / "china/0002.jpg").save(other)
    found = search("--image", other, "-n", 1, "--json").figures
    assert found["images"][0]["path"] == "china/0002.jpg"
    assert found["images"][0]["similarity"] == pytest.approx(1, abs=1e-6)
    assert found["compared"] == 12
    before = find_shards(tmp_path / "cache")
    assert search("--image", other).status == 0
    assert find_shards(tmp_path / "cache") == before


@pytest.mark.parametrize("family", ["CLIP", "SigLIP"])
def test_by_text_images_are_in_the_order_of_keras_hubs_logits(
    extract: Command, search: Search, photos: Path, family: str, tower: Callable[[str], Path]
) -> None:
    layer, text = "image_embedding", "a red flower"
    assert extract(model=f"hub:{tower(family)}", layers=layer).status == 0
    found = search("--text", text, "--json", layer=layer).figures
    files = sorted(photos.rglob("*.jpg"))
    reference = Reference(family, tower(family))
    logits = reference.find_logits(files, [text])[:, 0]
    order = [str(files[place].relative_to(photos)) for place in np.argsort(-logits)]
    assert [one["path"] for one in found["images"]] == order
    images, words = reference.embed_images(files), reference.embed_texts([text])[0]
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(words)
    told = [one["similarity"] for one in found["images"]]
    np.testing.assert_allclose(told, sorted(images @ words / lengths)[::-1], atol=1e-4)


def test_the_table_on_the_terminal_and_in_the_file_are_the_same(
    extract: Command, search: Search, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "china/0001.jpg", photos / "china/=1.jpg")
    Image.open(photos / "china/0001.jpg").rotate(1).save(photos / "china/=1.jpg")
    assert extract().status == 0
    out = tmp_path / "found.csv"
    answer = search("--image", photos / "china/0001.jpg", "-n", 3, "--out", out)
    assert "the 3 most alike of 12 images, by last:avg" in answer.out
    header, *rows = csv.reader(out.open(newline=""))
    assert header == ["rank", "similarity", "label", "path"]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    lines = [line.split() for line in answer.out.splitlines()[2:5]]
    assert [line[3] for line in lines] == [row[3] for row in rows]
    assert [float(line[1]) for line in lines] == pytest.approx(
        [float(row[1]) for row in rows], abs=1e-4
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--text", "a cat"), "--text compares images with texts, for which it needs one layer"),
        (("--text", " "), "--text '' says nothing"),
        (("--image", "missing.jpg"), "'missing.jpg' cannot be read"),
        (("--image", "x.jpg", "-n", "0"), "-n 0: list at least 1 image"),
        (("--image", "x.jpg", "--text", "a"), "not allowed with"),
        ((), "one of the arguments --text --image is required"),
    ],
)
def test_what_cannot_be_sought_is_one_line(
    extract: Command,
    refused: Callable[..., str],
    tmp_path: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    assert extract().status == 0
    given = ("--features", tmp_path / "features.h5", "--layer", "last:avg")
    assert said in refused("search", *given, *options)


def test_a_backbone_that_has_changed_is_refused(
    extract: Command, refused: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "own.keras")
    assert extract(model=model).status == 0
    write_model(model, seed=1)
    given = ("--features", tmp_path / "features.h5", "--layer", "last:avg")
    image = ("--image", photos / "china/0001.jpg", "--cache", tmp_path / "cache")
    assert "is no longer the one that the features are of" in refused("search", *given, *image)
