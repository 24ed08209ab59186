"""Features of KerasHub's presets on the real command line, against KerasHub's own forward pass."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from permafrost.pipeline.cli.main import main
from tests.helpers import ROOT
from tests.helpers.extracted import read_plain
from tests.helpers.inputs import write_photos
from tests.helpers.presets import build_preset, call_preset, save_preset

keras_hub = pytest.importorskip("keras_hub", reason="needs the extra hub")

LAYERS = "encoder.layers_3,encoder.layers_4:last4,layernorm:cls"


def call(*arguments: object) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main([*map(str, arguments), "--json"])
    assert status == 0, arguments
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    return write_photos(folder, n_each=8, side=90)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preset("dinov2", tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def extracted(photos: Path, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "features.h5"
    assert extract(photos, preset, out)["computed"] > 0
    return out


def extract(photos: Path, preset: Path, out: Path, *more: object) -> dict[str, Any]:
    data = ["--images", photos, "--split", "test=0.4"]
    named = [*data, "--backbone", f"hub:{preset}", "--out", out]
    layers = [] if "--layers" in more else ["--layers", LAYERS]
    return call("extract", *named, *layers, "--cache", out.parent / "cache", *more)


def list_paths(features: Path, photos: Path) -> list[Path]:
    import h5py

    with h5py.File(features) as file:
        return [photos / path.decode() for path in file["images/path"][()]]


def convert(folder: Path, files: list[Path]) -> np.ndarray:
    converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    images = [np.asarray(converter(np.asarray(Image.open(file).convert("RGB")))) for file in files]
    return np.stack(images)


@pytest.mark.parametrize(
    ("family", "layer", "converter"),
    [
        ("dinov2", "layernorm", {}),
        ("clip", "vision_projection", {"antialias": False, "crop_to_aspect_ratio": False}),
        ("swin", "norm", {"interpolation": "nearest", "scale": 1 / 127.5, "offset": -1}),
    ],
)
def test_features_are_those_of_kerashubs_converter_and_model(
    family: str, layer: str, converter: Mapping[str, Any], photos: Path, tmp_path: Path
) -> None:
    folder = save_preset(family, tmp_path / family, **converter)
    out = tmp_path / "features.h5"
    extract(photos, folder, out, "--layers", layer)
    model = keras_hub.models.Backbone.from_preset(str(folder))
    expected = np.asarray(call_preset(model, convert(folder, list_paths(out, photos))))
    found = read_plain(out, layer)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_second_run_computes_nothing(photos: Path, preset: Path, extracted: Path) -> None:
    again = extract(photos, preset, extracted)
    assert again["computed"] == 0


@pytest.mark.parametrize(
    "converter",
    [
        {"offset": [-2.1, -2.0, -1.7]},
        {"scale": 1 / 57.0},
        {"interpolation": "bilinear"},
        {"antialias": False},
        {"crop_to_aspect_ratio": False},
    ],
)
def test_another_converter_misses_the_cache(
    converter: Mapping[str, Any], photos: Path, extracted: Path, tmp_path: Path
) -> None:
    other = save_preset("dinov2", tmp_path / "preset", **converter)
    shutil.copytree(extracted.parent / "cache", tmp_path / "cache")
    assert extract(photos, other, tmp_path / "features.h5")["reused"] == 0


def test_the_same_preset_elsewhere_hits_the_cache(
    photos: Path, extracted: Path, tmp_path: Path
) -> None:
    other = save_preset("dinov2", tmp_path / "moved")
    shutil.copytree(extracted.parent / "cache", tmp_path / "cache")
    assert extract(photos, other, tmp_path / "features.h5")["computed"] == 0


def test_other_weights_and_another_size_miss_the_cache(
    photos: Path, preset: Path, extracted: Path, tmp_path: Path
) -> None:
    shutil.copytree(extracted.parent / "cache", tmp_path / "cache")
    out = tmp_path / "features.h5"
    assert extract(photos, preset, out, "--size", 40)["reused"] == 0
    other = tmp_path / "preset"
    shutil.copytree(preset, other)
    model = build_preset("dinov2")
    block = model.encoder.layers[3].mlp.fc2
    block.kernel.assign(block.kernel + 1e-3)
    model.save_to_preset(str(other))
    assert extract(photos, other, out)["reused"] == 0


@pytest.mark.slow
def test_another_version_of_kerashub_misses_where_its_code_for_the_model_differs(
    preset: Path, tmp_path: Path
) -> None:
    package = Path(keras_hub.__file__).parent
    for changed, is_same in (("vit/vit_layers.py", True), ("dinov2/dinov2_layers.py", False)):
        site = tmp_path / changed.partition("/")[0]
        shutil.copytree(package, site / "keras_hub", ignore=shutil.ignore_patterns("*.pyc"))
        with (site / "keras_hub" / "src" / "models" / changed).open("a") as file:
            file.write("\n_LATER = True\n")
        assert (digest(preset, site) == digest(preset, None)) is is_same


def digest(preset: Path, site: Path | None) -> str:
    code = (
        "from permafrost.pipeline.options import FeatureOptions as O\n"
        "from permafrost.pipeline.planning.backbone import Backbone\n"
        f"card = Backbone(O(backbone='hub:{preset}', layers=('layernorm',))).card\n"
        "print(card.layers['layernorm'].digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | ({"PYTHONPATH": str(site)} if site else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def test_resizing_is_the_presets_own_unless_pixels_are_scaled_by_hand(
    photos: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.h5"
    named = ["extract", "--images", str(photos), "--backbone", f"hub:{preset}"]
    more = ["--layers", "layernorm:cls", "--cache", str(tmp_path / "cache"), "--out", str(out)]
    assert main([*named, *more, "--resize", "bicubic"]) == 2
    assert "resizes images itself (keras-bicubic-antialias, crop)" in capsys.readouterr().err
    extract(
        photos, preset, out, "--layers", "layernorm:cls", "--resize", "area", "--preprocess", "tf"
    )


def test_token_poolings_are_derived_from_the_cached_layer(
    photos: Path, preset: Path, extracted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.h5"
    layer = "encoder.layers_3"
    extract(photos, preset, out, "--layers", f"{layer}:cls,{layer}:tokens,{layer}:cls_tokens")
    for pooling in ("cls", "tokens", "cls_tokens"):
        fits = [
            call(
                *("fit", "--features", file, "--layer", f"{layer}:{pooling}", "--head", "logreg"),
                *("--out", tmp_path / f"{pooling}-{file.parent.name}"),
            )
            for file in (out, extracted)
        ]
        assert fits[0]["log_loss"] == pytest.approx(fits[1]["log_loss"], rel=1e-3)


def test_a_head_on_a_preset_predicts_and_is_exported_as_a_model_that_keras_loads(
    photos: Path, extracted: Path, tmp_path: Path
) -> None:
    model, table, file = tmp_path / "model", tmp_path / "predictions.csv", tmp_path / "one.keras"
    layer = "encoder.layers_4:last4+layernorm:cls"
    call("fit", "--features", extracted, "--layer", layer, "--head", "logreg", "--out", model)
    call("predict", "--model", model, "--images", photos, "--out", table)
    said = call("export", "--model", model, "--out", file)
    assert said["pixels"]["resize"] == "keras-bicubic-antialias"
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    exported = keras.saving.load_model(file, safe_mode=True)
    resize = keras.layers.Resizing(
        32, 32, interpolation="bicubic", antialias=True, crop_to_aspect_ratio=True
    )
    images = [np.asarray(resize(np.asarray(Image.open(photos / row["path"])))) for row in rows]
    found = exported.predict(np.stack(images), verbose=0)
    classes = [name for name in rows[0] if name not in ("path", "label", "predicted")]
    expected = np.array([[float(row[name]) for name in classes] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # And it is a model file as any other.
    listed = call("layers", file)
    assert "backbone_1_DINOV2Backbone/layernorm" in json.dumps(listed)


def test_what_kerashub_cannot_read_back_is_not_exported(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_preset("vit", tmp_path / "preset")
    out = tmp_path / "features.h5"
    extract(photos, folder, out, "--layers", "vit_encoder:cls")
    call(
        "fit",
        "--features",
        out,
        "--layer",
        "vit_encoder:cls",
        "--head",
        "logreg",
        "--out",
        tmp_path / "m",
    )
    assert main(["export", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "x.keras")]) == 2
    assert "ViTPatchingAndEmbedding" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x.keras").exists()
    # And an experiment is told so before anything is extracted or fitted.
    experiment = {
        "images": str(photos),
        "cache": str(tmp_path / "cache"),
        "backbones": [{"name": f"hub:{folder}", "layers": ["vit_encoder:cls"]}],
        "heads": [{"kind": "logreg"}],
        "out": str(tmp_path / "runs"),
        "export": str(tmp_path / "x.keras"),
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(experiment))
    assert main(["run", str(file)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "export: backbones.0: KerasHub's ViTPatchingAndEmbedding cannot be exported" in line
    assert not any((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_what_kerashub_cannot_read_back_is_not_trained_but_what_lies_above_it_is(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_preset("vit", tmp_path / "preset")
    view, head = tmp_path / "features.h5", tmp_path / "head"
    above = "vit_encoder.transformer_block_3"
    extract(photos, folder, view, "--layers", f"pixels,{above}")
    fit = ["fit", "--features", str(view), "--head", "finetune", "--set", "epochs=1", "--layer"]
    assert main([*fit, "pixels", "--out", str(head)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "ViTPatchingAndEmbedding cannot be trained" in line and "extract a layer above" in line
    call(*fit, above, "--out", head)
    call("predict", "--model", head, "--images", photos, "--out", tmp_path / "p.csv")
    # It is no backbone itself: from pixels on, nobody could open it.
    assert not (head / "backbone.keras").exists()


@pytest.mark.slow
def test_a_preset_with_weights_that_nothing_depends_on_is_trained_from_pixels_on(
    photos: Path, tmp_path: Path
) -> None:
    folder = save_preset("dinov2", tmp_path / "preset")
    view, head = tmp_path / "features.h5", tmp_path / "head"
    extract(photos, folder, view, "--layers", "pixels")
    call(
        *("fit", "--features", view, "--layer", "pixels", "--head", "finetune"),
        *("--set", "epochs=1", "--out", head),
    )
    call("predict", "--model", head, "--images", photos, "--out", tmp_path / "p.csv")
