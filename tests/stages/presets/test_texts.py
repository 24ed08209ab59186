"""Text towers of presets against KerasHub's own model and preprocessor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from permafrost.stages.errors import InputError, StageError, WeightsError
from permafrost.stages.presets.texts import embed_texts
from tests.helpers.towers import Reference, build_tokenizer

TEXTS = ["a photo of a Flower.", "China", "the quick, brown fox " * 40]
FAMILIES = ("CLIP", "SigLIP")
Tower = Callable[[str], Path]


@pytest.fixture
def preset(tmp_path: Path, tower: Tower, request: pytest.FixtureRequest) -> Path:
    """Return a preset of its own, to be changed."""
    return Path(shutil.copytree(tower(request.param), tmp_path / "preset"))


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_embedded_as_keras_hub_embeds_them(tower: Tower, family: str) -> None:
    folder = tower(family)
    found = embed_texts(str(folder), TEXTS)
    reference = Reference(family, folder)
    np.testing.assert_allclose(found.vectors, reference.embed_texts(TEXTS), rtol=1e-4, atol=1e-5)
    assert found.vectors.dtype == np.float32
    head = reference.model.get_layer(f"{family.lower()}_head")
    assert found.scale == pytest.approx(float(np.exp(head.logit_scale)), rel=1e-6)
    bias = float(head.logit_bias) if family == "SigLIP" else None
    assert found.bias == (bias if bias is None else pytest.approx(bias, rel=1e-6))


@pytest.mark.parametrize("preset", ["CLIP"], indirect=True)
def test_a_presets_own_packing_of_tokens_is_heeded(tower: Tower, preset: Path) -> None:
    import keras_hub

    packing = keras_hub.models.CLIPPreprocessor(build_tokenizer("CLIP"), sequence_length=9)
    packing.save_to_preset(str(preset))
    found = embed_texts(str(preset), TEXTS).vectors
    expected = Reference("CLIP", preset).embed_texts(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[2], embed_texts(str(tower("CLIP")), TEXTS).vectors[2])


@pytest.mark.parametrize("preset", FAMILIES, indirect=True)
def test_files_that_a_tokenizers_configuration_names_are_not_read(
    tower: Tower, preset: Path
) -> None:
    file = preset / "tokenizer.json"
    config = json.loads(file.read_text())
    other = str(preset / "elsewhere")
    config["config"] |= {"proto": other, "vocabulary": other, "merges": other}
    config["config"]["unsplittable_tokens"] = {"class_name": "Lambda", "config": {}}
    file.write_text(json.dumps(config))
    plain = tower("CLIP" if (preset / "assets/tokenizer/merges.txt").exists() else "SigLIP")
    np.testing.assert_array_equal(
        embed_texts(str(preset), TEXTS).vectors, embed_texts(str(plain), TEXTS).vectors
    )


@pytest.mark.parametrize("preset", ["SigLIP"], indirect=True)
@pytest.mark.parametrize("damage", [None, b"", b"no pieces at all"])
def test_a_tokenizer_that_is_missing_or_damaged_is_one_line(
    preset: Path, damage: bytes | None
) -> None:
    file = preset / "assets/tokenizer/vocabulary.spm"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    with pytest.raises(WeightsError, match=r"tokenizer|text tower") as caught:
        embed_texts(str(preset), TEXTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["CLIP"], indirect=True)
def test_tokens_that_the_model_does_not_know_are_refused(preset: Path) -> None:
    file = preset / "assets/tokenizer/vocabulary.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"<|endoftext|>": 60}))
    with pytest.raises(StageError, match="gives the token 60, and its model knows 60"):
        embed_texts(str(preset), TEXTS)


def test_a_preset_without_a_text_tower_is_one_line(tower: Tower, tmp_path: Path) -> None:
    tower("CLIP")  # skips where KerasHub is not there
    import keras_hub

    keras_hub.models.ViTBackbone(
        (32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=24
    ).save_to_preset(str(tmp_path))
    with pytest.raises(InputError, match=r"has no text tower that is known here .ViTBackbone"):
        embed_texts(str(tmp_path), TEXTS)


def test_texts_of_a_handle_are_read_from_the_cache_of_its_hub(
    tower: Tower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models" / "someone" / "clip" / "keras" / "small"
    shutil.copytree(tower("CLIP"), models / "1")
    for file in [one for one in (models / "1").rglob("*") if one.is_file()]:
        marker = models / ".complete" / "1" / f"{file.relative_to(models / '1')}.complete"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    (models / "1" / "preprocessor.json").write_text("{}")
    (models / ".complete" / "1" / "preprocessor.json.complete").touch()
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    found = embed_texts("kaggle://someone/clip/keras/small/1", TEXTS)
    expected = embed_texts(str(tower("CLIP")), TEXTS)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
