"""The head `zero_shot`, from images to probabilities, against KerasHub's own models."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permafrost.pipeline.models.record import FitOptions, build_record
from permafrost.pipeline.tasks.task import TaskOptions
from tests.helpers.answers import Command
from tests.helpers.extracted import read_plain
from tests.helpers.inputs import write_photos
from tests.helpers.towers import SIDE, Reference, save_tower

LAYER = "image_embedding"
TEMPLATES = ("a photo of a {}.", "a picture of {}")
Tower = Callable[[str], Path]
Refused = Callable[..., str]


@pytest.fixture
def preset(tower: Tower, tmp_path: Path) -> Path:
    """Return a preset of CLIP's that may be changed."""
    return Path(shutil.copytree(tower("CLIP"), tmp_path / "clip"))


@dataclass(frozen=True)
class Bench:
    """Extracts the image embeddings of the photos, fits heads on them, asks them."""

    extract: Command
    command: Command
    photos: Path
    folder: Path

    @property
    def files(self) -> list[Path]:
        return sorted(self.photos.rglob("*.jpg"))

    def embed(self, preset: Path, *options: object) -> Path:
        answer = self.extract("--split", "none", *options, model=f"hub:{preset}", layers=LAYER)
        assert answer.status == 0, answer.err
        return self.folder / "features.h5"

    def fit(self, features: Path, *options: object) -> dict[str, Any]:
        given = ("--layer", LAYER, "--head", "zero_shot", "--out", self.folder / "out", "--json")
        return self.command("fit", "--features", features, *given, *options).figures

    def predict(self) -> np.ndarray:
        """Return the probabilities that are written of the photos."""
        out = self.folder / "predictions.csv"
        where = ("--images", self.photos, "--out", out, "--cache", self.folder / "cache")
        answer = self.command("predict", "--model", self.folder / "out", *where)
        assert answer.status == 0, answer.err
        with out.open(newline="") as stream:
            return np.array([row[3:] for row in list(csv.reader(stream))[1:]], float)

    def export(self) -> Path:
        out = self.folder / "classifier.keras"
        answer = self.command("export", "--model", self.folder / "out", "--out", out)
        assert answer.status == 0, answer.err
        return out


@pytest.fixture
def bench(extract: Command, command: Command, photos: Path, tmp_path: Path) -> Bench:
    return Bench(extract, command, photos, tmp_path)


def soften(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


@pytest.mark.parametrize("family", ["CLIP", "SigLIP"])
def test_image_embeddings_and_probabilities_are_those_of_keras_hub(
    bench: Bench, tower: Tower, family: str
) -> None:
    features = bench.embed(tower(family))
    reference, files = Reference(family, tower(family)), bench.files
    np.testing.assert_allclose(
        read_plain(features, LAYER), reference.embed_images(files), rtol=1e-4, atol=1e-4
    )
    bench.fit(features)
    logits = reference.find_logits(files, ["a photo of a china.", "a photo of a flower."])
    np.testing.assert_allclose(bench.predict(), soften(logits), atol=1e-4)


def test_a_class_is_the_mean_direction_of_what_is_said_of_it(bench: Bench, tower: Tower) -> None:
    features = bench.embed(tower("CLIP"))
    names = {"china": "old house", "flower": "flower"}
    said = bench.fit(
        features, "--set", f"templates={';'.join(TEMPLATES)}", "--set", "names=china:old house"
    )
    assert said["settings"]["names"] == [["china", "old house"]]
    reference = Reference("CLIP", tower("CLIP"))
    directions = []
    for name in names.values():
        each = reference.embed_texts([template.replace("{}", name) for template in TEMPLATES])
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
        directions.append(mean / np.linalg.norm(mean))
    images = reference.embed_images(bench.files)
    cosines = images / np.linalg.norm(images, axis=1, keepdims=True) @ np.array(directions).T
    scale = np.exp(float(reference.model.get_layer("clip_head").logit_scale))
    np.testing.assert_allclose(bench.predict(), soften(scale * cosines), atol=1e-4)


def test_siglip_judges_each_tag_by_itself_and_clip_does_not(
    bench: Bench, refused: Refused, tower: Tower, tmp_path: Path
) -> None:
    files = bench.files
    tags = {"china": "house;sky", "flower": "rose_bush"}
    table = tmp_path / "tags.csv"
    rows = [f"{file.relative_to(bench.photos)},{tags[file.parent.name]}\n" for file in files]
    table.write_text("path,label\n" + "".join(rows))
    features = bench.embed(tower("SigLIP"), "--labels", f"csv:{table}")
    bench.fit(features, "--task", "multilabel")
    texts = [f"a photo of a {name}." for name in ("house", "rose bush", "sky")]
    logits = Reference("SigLIP", tower("SigLIP")).find_logits(files, texts)
    np.testing.assert_allclose(bench.predict(), 1 / (1 + np.exp(-logits)), atol=1e-4)
    features = bench.embed(tower("CLIP"), "--labels", f"csv:{table}")
    given = ("--layer", LAYER, "--head", "zero_shot", "--out", tmp_path / "no")
    line = refused("fit", "--features", features, *given, "--task", "multilabel")
    assert "zero_shot does multilabel with a model of SigLIP's" in line


def test_the_key_of_a_fit_covers_sentences_names_tokens_and_text_weights(
    bench: Bench, preset: Path
) -> None:
    data = TaskOptions(features=(bench.embed(preset),))

    def find_key(**settings: object) -> str:
        options = FitOptions(
            data=data, layer=LAYER, head="zero_shot", settings=settings, out=bench.folder
        )
        with data.open_files() as files:
            layers = files.find_layers(LAYER)
            record = build_record(options, options.make_candidate(), files, layers)
        return str(record["fit"])

    first = find_key()
    assert find_key(templates="a photo of a {}.") == first
    keys = {first, find_key(templates="a {}"), find_key(names="china:old house")}
    words = preset / "assets/tokenizer/vocabulary.json"
    numbers = json.loads(words.read_text())
    numbers["a</w>"], numbers["b</w>"] = numbers["b</w>"], numbers["a</w>"]
    words.write_text(json.dumps(numbers))
    keys.add(find_key())
    model = Reference("CLIP", preset).model
    model.text_projection.set_weights([-model.text_projection.get_weights()[0]])
    model.save_weights(preset / "model.weights.h5")
    keys.add(find_key())
    assert len(keys) == 5


@pytest.mark.slow
def test_it_is_a_row_of_the_leaderboard_and_is_fitted_anew_where_the_text_tower_is_another(
    bench: Bench, preset: Path, tmp_path: Path
) -> None:
    features = bench.embed(preset)

    def sweep() -> dict[str, Any]:
        heads = ("--heads", "zero_shot,logreg", "--set", "templates=[one {}, this],a {}")
        given = ("--features", features, *heads, "--cv", 2, "--json")
        return bench.command("sweep", *given, "--out", tmp_path / "sweep").figures

    first = sweep()
    assert (first["fitted"], len(first["configurations"])) == (6, 3)
    assert sweep()["fitted"] == 0
    words = preset / "assets/tokenizer/vocabulary.json"
    numbers = json.loads(words.read_text())
    numbers["a</w>"], numbers["b</w>"] = numbers["b</w>"], numbers["a</w>"]
    words.write_text(json.dumps(numbers))
    assert sweep()["fitted"] == 4


def test_a_fitted_head_needs_neither_tokenizer_nor_text_tower(bench: Bench, preset: Path) -> None:
    bench.fit(bench.embed(preset))
    before = bench.predict()
    shutil.rmtree(preset / "assets")
    np.testing.assert_array_equal(bench.predict(), before)
    assert bench.export().is_file()


def test_an_exported_model_gives_the_same_probabilities(bench: Bench, tower: Tower) -> None:
    import keras

    # As large as the model takes them, so that nothing is resized.
    shutil.rmtree(bench.photos)
    write_photos(bench.photos, n_each=3, side=SIDE)
    bench.fit(bench.embed(tower("SigLIP")))
    photos = [keras.utils.load_img(file) for file in bench.files]
    pixels = np.stack([keras.utils.img_to_array(photo) for photo in photos])
    said = keras.models.load_model(bench.export()).predict(pixels.astype(np.uint8), verbose=0)
    np.testing.assert_allclose(said, bench.predict(), atol=1e-5)


def test_a_backbone_that_has_changed_is_refused(
    bench: Bench, refused: Refused, preset: Path, tmp_path: Path
) -> None:
    features = bench.embed(preset)
    shutil.copytree(save_tower("CLIP", tmp_path / "other", seed=1), preset, dirs_exist_ok=True)
    given = ("--layer", LAYER, "--head", "zero_shot", "--out", tmp_path / "no")
    line = refused("fit", "--features", features, *given)
    assert "is no longer the one that the features are of; restore its weights" in line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("templates=a photo", "templates=a photo: give sentences with {} where the name goes"),
        ("names=china", "names=china: give a name for some classes"),
        ("names=dog:house dog", "unknown class 'dog' in names; there are: china, flower"),
    ],
)
def test_settings_that_say_nothing_are_one_line(
    bench: Bench, refused: Refused, tower: Tower, setting: str, said: str
) -> None:
    given = (
        "--layer",
        LAYER,
        "--head",
        "zero_shot",
        "--set",
        setting,
        "--out",
        bench.folder / "no",
    )
    assert said in refused("fit", "--features", bench.embed(tower("CLIP")), *given)


def test_other_layers_and_backbones_are_one_line(
    extract: Command, refused: Refused, tmp_path: Path
) -> None:
    assert extract().status == 0
    features = tmp_path / "features.h5"
    for layer in ("first", "last:avg", "first+last:avg"):
        given = ("--layer", layer, "--head", "zero_shot", "--out", tmp_path / "no")
        line = refused("fit", "--features", features, *given)
        assert "zero_shot compares images with texts, for which it needs one layer" in line
    heads = ("--heads", "zero_shot,ridge", "--out", tmp_path / "sweep")
    line = refused("sweep", "--features", features, *heads)
    assert "zero_shot can be fitted on none of the layers" in line
    assert "it needs image_embedding, of a preset with a text tower" in line
