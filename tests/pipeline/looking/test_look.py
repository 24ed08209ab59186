"""``show --image``: class maps against scikit-learn, neighbours, activation maps against Keras."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

from permafrost.pipeline.looking.class_view import MOST_CLASSES
from tests.helpers.answers import Answer, Command
from tests.helpers.extracted import find_shards, predict, read_plain
from tests.helpers.pictures import encode, photo

BICUBIC = Image.Resampling.BICUBIC
LAYER = "last:avg"
Look = Callable[..., Answer]


@pytest.fixture
def fit(command: Command, extract: Command, tmp_path: Path) -> Callable[..., Path]:
    """Extract, fit, and return the model's folder."""

    def call(
        *options: object,
        layer: str = LAYER,
        head: str = "logreg",
        images: object = None,
        extracting: tuple[object, ...] = (),
    ) -> Path:
        out = tmp_path / f"model-{head}"
        given = () if images is None else ("--images", images)
        answer = extract(*given, *extracting, layers=f"{layer.replace('+', ',')},first:avg")
        assert answer.status == 0, answer.err
        features = tmp_path / "features.h5"
        fitting = ("fit", "--features", features, "--layer", layer, "--head", head, "--out", out)
        answer = command(*fitting, *options)
        assert answer.status == 0, answer.err
        return out

    return call


@pytest.fixture
def look(command: Command, photos: Path, tmp_path: Path) -> Look:
    def call(*options: object, image: object = photos / "china/0003.jpg") -> Answer:
        where = ("--cache", tmp_path / "cache", "--out", tmp_path / "look.png")
        return command("show", "--image", image, *where, *options)

    return call


def decide(model: Path, features: np.ndarray) -> np.ndarray:
    """Return what the saved pipeline of scikit-learn decides by."""
    return np.asarray(skops.io.load(model / "head/head.skops").decision_function(features))


@pytest.mark.parametrize("scale", ["standard", "l2", "none"])
def test_the_maps_sum_is_what_scikit_learn_decides_by(
    fit: Callable[..., Path], look: Look, tmp_path: Path, scale: str
) -> None:
    model = fit("--set", f"scale={scale}")
    figures = look("--model", model, "--json").figures
    (decided,) = decide(model, read_plain(tmp_path / "features.h5", LAYER)[3:4])
    scores = {one["class"]: one["score"] for one in figures["classes"]}
    assert scores["flower"] == pytest.approx(decided, rel=1e-5, abs=1e-5)
    assert scores["china"] == pytest.approx(-decided, rel=1e-5, abs=1e-5)
    for one in figures["classes"]:
        (values,) = one["maps"]
        assert np.shape(values) == (5, 5)
        assert np.sum(values) == pytest.approx(one["score"], rel=1e-5, abs=1e-5)
    assert figures["classes"][0]["probability"] > 0.5
    assert (figures["what"], figures["head"], figures["layer"]) == ("image", "logreg", LAYER)


def test_the_nearest_images_of_each_class_are_those_of_scikit_learns_cosine(
    fit: Callable[..., Path], look: Look, tmp_path: Path
) -> None:
    figures = look("--model", fit(), "--json").figures
    values = read_plain(tmp_path / "features.h5", LAYER)
    cosines = cosine_similarity(values[3:4], values)[0]
    paths = [f"{name}/{n:04d}.jpg" for name in ("china", "flower") for n in range(6)]
    for one in figures["classes"]:
        rows = [row for row, path in enumerate(paths) if path.startswith(one["class"]) and row != 3]
        best = sorted(rows, key=lambda row: -cosines[row])[:4]
        assert [near["path"] for near in one["neighbours"]] == [paths[row] for row in best]
        told = [near["similarity"] for near in one["neighbours"]]
        np.testing.assert_allclose(told, cosines[best], atol=1e-6)


def test_the_map_is_drawn_where_the_evidence_is(
    fit: Callable[..., Path], look: Look, tmp_path: Path
) -> None:
    answer = look("--model", fit())
    assert answer.status == 0
    assert "china" in answer.out and "cosine" in answer.out
    with Image.open(tmp_path / "look.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        # Right of the photo and its maps, four thumbnails.
        assert picture.width > 280 + 4 * 160
        drawn = np.asarray(picture, float)
    figures = look("--model", tmp_path / "model-logreg", "--json").figures
    (values,) = figures["classes"][0]["maps"]
    assert np.max(values) > 0
    # The photo above is in colour; the map of the first class lies below it, on grey.
    overlay = drawn[341 : 341 + 280, 16 : 16 + 280]
    saturation = overlay.max(axis=2) - overlay.min(axis=2)
    y, x = np.unravel_index(np.argmax(values), (5, 5))
    cells = saturation.reshape(5, 56, 5, 56).mean(axis=(1, 3))
    assert cells[y, x] > 1.5 * cells[np.array(values) < 0].max(initial=0)


def test_a_map_that_is_cached_is_not_computed_again(
    fit: Callable[..., Path], look: Look, tmp_path: Path, backbone: Path
) -> None:
    model = fit()
    assert look("--model", model).status == 0
    before = find_shards(tmp_path / "cache")
    assert any("last-none" in name for name in before)
    assert look("--model", model).status == 0
    assert find_shards(tmp_path / "cache") == before


def test_layers_side_by_side_and_whole_maps_are_added_up(
    fit: Callable[..., Path], look: Look, tmp_path: Path
) -> None:
    model = fit("--set", "scale=layer", layer="last:avg+second")
    figures = look("--model", model, "--json").figures
    for one in figures["classes"]:
        assert [np.shape(part) for part in one["maps"]] == [(5, 5), (7, 7)]
        total = sum(np.sum(part) for part in one["maps"])
        assert total == pytest.approx(one["score"], rel=1e-5, abs=1e-5)
    shares = [one["probability"] for one in figures["classes"]]
    odds = np.exp(figures["classes"][0]["score"])
    assert shares == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-6)
    assert all(one["neighbours"] for one in figures["classes"])


def test_pixels_are_a_map_too(fit: Callable[..., Path], look: Look) -> None:
    figures = look("--model", fit(layer="pixels", head="ridge"), "--json").figures
    (values,) = figures["classes"][0]["maps"]
    assert np.shape(values) == (32, 32)
    assert np.sum(values) == pytest.approx(figures["classes"][0]["score"], rel=1e-5, abs=1e-5)


def test_a_box_is_looked_at_as_the_network_saw_it(
    command: Command, tmp_path: Path, look: Look
) -> None:
    whole = photo(240, 160)
    (tmp_path / "china.png").write_bytes(encode(whole, "PNG"))
    boxes = [(left, top) for left in range(0, 201, 40) for top in range(0, 121, 40)]
    lines = [f'china.png,{"up" if y < 80 else "down"},"{x},{y},40,40"' for x, y in boxes]
    (tmp_path / "boxes.csv").write_text("\n".join(["path,label,box", *lines]))
    network = ("--backbone", "none", "--size", 8, "--layers", "pixels")
    where = ("--cache", tmp_path / "cache", "--out", tmp_path / "f.h5")
    assert command("extract", "--images", tmp_path / "boxes.csv", *network, *where).status == 0
    model = tmp_path / "model"
    fitting = ("fit", "--features", tmp_path / "f.h5", "--layer", "pixels", "--head", "ridge")
    assert command(*fitting, "--out", model).status == 0
    path = "china.png#xywh=40,80,40,40"
    answer = look("--model", model, "--json", image=tmp_path / path)
    assert answer.status == 0, answer.err
    (row,) = (n for n, box in enumerate(boxes) if box == (40, 80))
    # Heads are given pixels from 0 to 1.
    pixels = read_plain(tmp_path / "f.h5", "pixels").reshape(24, -1) / 255
    (decided,) = decide(model, pixels[[row]])
    scores = {one["class"]: one["score"] for one in answer.figures["classes"]}
    assert scores["up"] == pytest.approx(decided, rel=1e-4, abs=1e-4)
    shown = [near["path"] for one in answer.figures["classes"] for near in one["neighbours"]]
    assert len(set(shown)) == 8 and path not in shown

    def cut(path: str, side: int) -> np.ndarray:
        x, y, width, height = map(int, path.partition("#xywh=")[2].split(","))
        crop = whole.crop((x, y, x + width, y + height)).resize((side, side), BICUBIC)
        return np.asarray(crop, float)

    with Image.open(tmp_path / "look.png") as picture:
        drawn = np.asarray(picture, float)
    # The photo, and the first of the first class' neighbours.
    assert np.abs(drawn[16:296, 16:296] - cut(path, 280)).max() < 3
    assert np.abs(drawn[341:501, 316:476] - cut(shown[0], 160)).max() < 3


def test_of_a_regression_there_is_one_map_and_of_many_classes_six(
    command: Command, photos: Path, backbone: Path, tmp_path: Path, look: Look
) -> None:
    table = tmp_path / "photos.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "height"])
        for number, file in enumerate(sorted(photos.rglob("*.jpg"))):
            writer.writerow([file.relative_to(tmp_path), f"class {number % 8}", number * 1.5])
    wanted = ("--backbone", backbone, "--layers", LAYER, "--cache", tmp_path / "cache")
    features = tmp_path / "f.h5"
    assert command("extract", "--images", table, *wanted, "--out", features).status == 0
    fitting = ("fit", "--features", features, "--layer", LAYER, "--head", "ridge", "--out")
    value, many = tmp_path / "value", tmp_path / "many"
    task = ("--task", "regression", "--target", "height")
    assert command(*fitting, value, *task).status == 0
    (one,) = look("--model", value, "--json").figures["classes"]
    assert (one["class"], one["probability"], len(one["neighbours"])) == ("height", None, 4)
    assert np.sum(one["maps"]) == pytest.approx(one["score"], rel=1e-5, abs=1e-5)
    assert command(*fitting, many).status == 0
    classes = look("--model", many, "--json").figures["classes"]
    assert len(classes) == MOST_CLASSES
    probabilities = [one["probability"] for one in classes]
    assert probabilities == sorted(probabilities, reverse=True)
    assert "8 classes in all" in look("--model", many).out


def test_a_model_whose_features_are_gone_shows_its_maps_alone(
    fit: Callable[..., Path], look: Look, tmp_path: Path
) -> None:
    model = fit()
    (tmp_path / "features.h5").rename(tmp_path / "other.h5")
    answer = look("--model", model)
    assert (answer.status, "--features F.h5" in answer.out) == (0, True)
    named = look("--model", model, "--features", tmp_path / "other.h5", "--json").figures
    assert len(named["classes"][0]["neighbours"]) == 4
    assert look("--model", model, "--features", tmp_path / "no.h5").status == 2


def test_model_and_features_that_move_together_are_found(
    fit: Callable[..., Path], look: Look, tmp_path: Path
) -> None:
    model = fit()
    home = tmp_path / "elsewhere"
    home.mkdir()
    for path in (model, tmp_path / "features.h5", tmp_path / "cache"):
        path.rename(home / path.name)
    figures = look("--model", home / model.name, "--cache", home / "cache", "--json").figures
    assert len(figures["classes"][0]["neighbours"]) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "knn"}, "'knn' is not linear"),
        ({"layer": "last:max"}, ":max are no mean over positions"),
        ({"layer": "last:grid2"}, ":grid2 are no mean over positions"),
    ],
)
def test_what_has_no_map_is_refused_in_one_line(
    fit: Callable[..., Path], look: Look, options: dict[str, Any], said: str
) -> None:
    answer = look("--model", fit(**options))
    assert (answer.status, said in answer.err) == (2, True)
    assert answer.err.count("\n") == 1


def test_mistakes_are_one_line(
    look: Look, command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    text = photos / "notes.jpg"
    text.write_text("no image")
    network = ("--backbone", backbone, "--layers", "first")
    for answer, said in (
        (look(), "--image goes with --model DIR"),
        (look("--model", tmp_path), "holds no fitted model"),
        (look("--backbone", backbone), "--layers"),
        (look(*network, "--out", tmp_path / "look.gif"), "ends in .png"),
        (look(*network, image=tmp_path / "no.jpg"), "cannot be read (no such file"),
        (look(*network, image=photos), "cannot be read"),
        (look(*network, image=text), "can be read"),
        (look("--backbone", backbone, "--layers", "frist"), "did you mean 'first'"),
        (command("show"), "name one thing to show"),
        (command("show", text), "is an image; see where a head looks with"),
    ):
        assert answer.status == 2, answer
        assert said in answer.err.splitlines()[-1]


def test_the_most_active_channels_are_those_of_plain_keras(
    look: Look, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    image = photos / "flower/0001.jpg"
    options = ("--backbone", backbone, "--layers", "first:avg,last", "--json")
    figures = look(*options, image=image).figures
    for told in figures["layers"]:
        expected = np.abs(predict(backbone, told["layer"], [image])[0]).mean(axis=(0, 1))
        order = np.argsort(-expected)[:16]
        assert told["channels"] == order.tolist()
        np.testing.assert_allclose(told["means"], expected[order], rtol=1e-4)
    with Image.open(tmp_path / "look.png") as picture:
        assert picture.size[0] > 8 * 120


def test_a_layer_without_positions_is_refused_with_where_to_find_others(
    command: Command, look: Look, photos: Path, tmp_path: Path
) -> None:
    import keras

    network = keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, name="map"),
            keras.layers.GlobalAveragePooling2D(name="pooled"),
        ],
        name="mobilenet_flat",
    )
    network.save(tmp_path / "flat.keras")
    answer = look("--backbone", tmp_path / "flat.keras", "--layers", "pooled")
    assert (answer.status, "'pooled' has no height and width" in answer.err) == (2, True)
    assert "as the command layers lists them" in answer.err
    wanted = ("--images", photos, "--backbone", tmp_path / "flat.keras", "--layers", "pooled")
    where = ("--cache", tmp_path / "cache", "--out", tmp_path / "f.h5")
    assert command("extract", *wanted, *where).status == 0
    fit = ("fit", "--features", tmp_path / "f.h5", "--layer", "pooled", "--head", "logreg")
    assert command(*fit, "--out", tmp_path / "model").status == 0
    assert "'pooled' has no height and width" in look("--model", tmp_path / "model").err
