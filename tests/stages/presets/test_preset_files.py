"""A preset's files are data: what else they name is refused before anything of it is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.errors import InputError, StageError, UnknownNameError, WeightsError
from permafrost.stages.frameworks.model_file import load_model
from permafrost.stages.presets.converter import describe_converter
from permafrost.stages.presets.folder import fetch_file
from tests.helpers import ROOT
from tests.helpers.presets import SIDE, save_preset

keras_hub = pytest.importorskip("keras_hub", reason="needs the extra hub")

Config = dict[str, Any]
EVIDENCE = "it-ran"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_preset("vit", tmp_path / "preset")


def load(folder: Path | str) -> Any:
    return load_backbone(BackboneRequest(backbone=parse_backbone(f"hub:{folder}")))


def rewrite(file: Path, change: Callable[[Config], object]) -> None:
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def name_own_code(config: Config) -> None:
    config |= {"module": "evil", "class_name": "Evil", "registered_name": "Evil"}


def name_a_lambda(config: Config) -> None:
    inner = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}}
    config["config"]["name"] = inner


def name_a_task(config: Config) -> None:
    name = "ViTImageClassifier"
    config["module"] = "keras_hub.src.models.vit.vit_image_classifier"
    config |= {"class_name": name, "registered_name": f"keras_hub>{name}"}


def name_a_language_model(config: Config) -> None:
    config["module"] = "keras_hub.src.models.bert.bert_backbone"
    config |= {"class_name": "BertBackbone", "registered_name": "keras_hub>BertBackbone"}


def name_another_by_registration(config: Config) -> None:
    config["registered_name"] = "evil>ViTBackbone"


def name_a_layer(config: Config) -> None:
    config["module"] = "keras_hub.src.models.vit.vit_layers"
    config |= {"class_name": "ViTEncoder", "registered_name": "ViTEncoder"}


def ask_for_terabytes(config: Config) -> None:
    config["config"] |= {"hidden_dim": 2_000_000, "mlp_dim": 2_000_000}


@pytest.mark.parametrize(
    "change",
    [
        name_own_code,
        name_a_lambda,
        name_a_task,
        name_a_language_model,
        name_another_by_registration,
        name_a_layer,
        ask_for_terabytes,
    ],
)
@pytest.mark.parametrize("file", ["config.json", "image_converter.json"])
def test_a_preset_of_anything_else_is_refused_in_one_line(
    folder: Path, file: str, change: Callable[[Config], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text(f"open({EVIDENCE!r}, 'w')\nEvil = object")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    rewrite(folder / file, change)
    with pytest.raises(StageError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / EVIDENCE).exists()


def test_weights_that_lead_elsewhere_are_refused(folder: Path) -> None:
    with h5py.File(folder / "model.weights.h5", "a") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(WeightsError, match="is a link to somewhere else"):
        load(folder)


def test_shards_lie_beside_their_index(folder: Path) -> None:
    whole = keras_hub.models.Backbone.from_preset(str(folder))
    (folder / "model.weights.h5").unlink()
    whole.save_weights(folder / "model.weights.json", max_shard_size=2e-5)
    layers = load(folder).model.get_weights()
    for one, other in zip(layers, whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rewrite(folder / "model.weights.json", lambda index: index["weight_map"].update(x="../../x.h5"))
    with pytest.raises(WeightsError, match=r"names '../../x.h5', which is no file beside it"):
        load(folder)


def test_what_lies_in_a_folder_besides_is_not_read(folder: Path) -> None:
    (folder / "task.json").write_text('{"module": "evil", "class_name": "Evil"}')
    (folder / "tokenizer.json").write_text("garbage")
    assert load(folder).size == (SIDE, SIDE)


@pytest.mark.parametrize(
    "text",
    ["hub:", "hub:s3://a/b", "hub:hf://a", "hub:./nowhere", "hub:a b", f"hub:a/{'x' * 300}"],
)
def test_what_is_no_preset_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"hub:dinov2_base.*hub:./folder"):
        parse_backbone(text)


def test_an_unknown_preset_proposes_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"dinov2_base.*or name a folder"):
        load("dinov2_bas")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "page"),
    [
        ("dinov2_base", "https://www.kaggle.com/models/keras/dinov2/keras/dinov2_base"),
        ("kaggle://a/b/keras/c", "https://www.kaggle.com/models/a/b/keras/c"),
        ("hf://a/b", "https://huggingface.co/a/b"),
    ],
)
def test_without_network_one_line_says_what_to_fetch(
    preset: str, page: str, tmp_path: Path
) -> None:
    closed = "http://127.0.0.1:9"
    hubs = {"KAGGLE_API_ENDPOINT": closed, "HF_ENDPOINT": closed}
    homes = {"KAGGLEHUB_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "run.py", "layers", f"hub:{preset}"],
        cwd=ROOT,
        env=os.environ | hubs | homes,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("permafrost: config.json of the preset")
    assert page in line
    assert "hub:./folder" in line


def test_without_network_what_lies_in_the_cache_of_a_hub_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--a--b"
    for file, text in {
        f"snapshots/{'1' * 40}/config.json": "{}",
        f".no_exist/{'1' * 40}/image_converter.json": "",
        "refs/main": "1" * 40,
    }.items():
        (kept / file).parent.mkdir(parents=True, exist_ok=True)
        (kept / file).write_text(text)
    found = fetch_file("hf://a/b", "config.json")
    assert found is not None
    assert found.read_text() == "{}"
    # The hub has said before that there is none.
    assert fetch_file("hf://a/b", "image_converter.json") is None
    with pytest.raises(WeightsError, match=r"127.0.0.1:9 does not answer.*name their folder"):
        fetch_file("hf://a/b", "model.weights.h5")


def test_without_network_the_newest_version_in_kaggles_cache_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = pytest.importorskip("kagglesdk.kaggle_env")
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.TEST, "http://[::1]:9")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    models = tmp_path / "models" / "a" / "b" / "keras" / "c"
    for version in ("9", "10"):
        for file in (f"{version}/config.json", f".complete/{version}/config.json.complete"):
            (models / file).parent.mkdir(parents=True, exist_ok=True)
            (models / file).write_text(version)
    found = fetch_file("kaggle://a/b/keras/c", "config.json")
    assert found is not None
    assert found.read_text() == "10"
    with pytest.raises(WeightsError, match=r"cannot be downloaded.*name their folder"):
        fetch_file("kaggle://a/b/keras/c", "model.weights.h5")


@pytest.mark.slow
def test_without_keras_hub_one_line_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['keras_hub'] = None; from run import main;"
        " sys.argv[1:] = ['layers', 'hub:dinov2_base']; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert 'pip install "permafrost[hub]"' in done.stderr.strip().splitlines()[-1]


def test_a_model_file_may_be_of_kerashubs_vision_layers(tmp_path: Path) -> None:
    layers = keras_hub.src.models.dinov2.dinov2_layers
    image = keras.Input((SIDE, SIDE, 3))
    tokens = layers.DINOV2Embedding(8, 8, (SIDE, SIDE), name="tokens")(image)
    model = keras.Model(image, layers.DINOV2LayerScale(8)(tokens))
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    batch = np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32)
    np.testing.assert_allclose(loaded(batch), model(batch), rtol=1e-5, atol=1e-6)


def test_a_model_file_may_not_be_of_kerashubs_tokenizers(tmp_path: Path) -> None:
    image = keras.Input((SIDE, SIDE, 3))
    keras.Model(image, keras.layers.Flatten(name="flat")(image)).save(tmp_path / "model.keras")
    from tests.helpers.hostile import rewrite_archive

    config = json.dumps(
        {
            "module": "keras_hub.src.tokenizers.byte_tokenizer",
            "class_name": "ByteTokenizer",
            "config": {},
            "registered_name": "keras_hub>ByteTokenizer",
        }
    )
    rewrite_archive(tmp_path / "model.keras", {"config.json": config.encode()})
    with pytest.raises(WeightsError, match="ByteTokenizer"):
        load_model(tmp_path / "model.keras")


def test_a_converter_is_figures() -> None:
    found = describe_converter(
        keras_hub.layers.ImageConverter(image_size=(4, 6), scale=1 / 127.5, offset=-1), 3
    )
    assert (found.size, found.resize, found.resize_mode) == ((4, 6), "keras-bilinear", "crop")
    assert found.preprocess == "mean=127.5,127.5,127.5,std=127.5,127.5,127.5"
    bare = keras_hub.layers.ImageConverter(crop_to_aspect_ratio=False, interpolation="nearest")
    assert describe_converter(bare, 3).preprocess == "none"
    with pytest.raises(InputError, match="multiplies pixels by -1"):
        describe_converter(keras_hub.layers.ImageConverter(scale=-1.0), 3)
