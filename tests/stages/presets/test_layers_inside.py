"""Every layer inside of a preset, and every token pooling, against KerasHub's own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import BackboneCard, LayerSpec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.network import Network
from permafrost.stages.engines.keras_engine import KerasProgram
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import InputError
from tests.helpers.presets import BUILDERS, SIDE, TOKENS, record_layers, save_preset

keras_hub = pytest.importorskip("keras_hub", reason="needs the extra hub")

# Layers that everyone asks for, by family: a block's output, its attention's, its feed-forward's.
WANTED = {
    "clip": ("encoder_block_3", "encoder_block_3.attention", "encoder_block_3.dense_1"),
    "deit": ("transformer_block_3", "transformer_block_3.mha", "transformer_block_3.mlp"),
    "dinov2": ("encoder.layers_3", "encoder.layers_3.attention", "encoder.layers_3.mlp.fc1"),
    "dinov3": ("encoder.layers_3", "encoder.layers_3.attention", "encoder.layers_3.mlp.up_proj"),
    "resnet": ("stack1_block0_out", "stack0_block0_1_conv", "stack0_block0_add"),
    "siglip": ("encoder_block_3", "encoder_block_3.self_attn", "encoder_block_3.mlp.fc1"),
    "swin": ("stage_0.blocks_1", "stage_1", "stage_1.blocks_0.mlp.fc1"),
    "vit": ("transformer_block_3", "transformer_block_3.mha", "transformer_block_3.mlp.dense_1"),
}
PREFIXES = {
    "clip": "vision_encoder.",
    "deit": "deit_encoder.",
    "siglip": "vision_encoder.",
    "vit": "vit_encoder.",
}


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preset(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    return load(folder)


@pytest.fixture(scope="module")
def card(network: Network) -> BackboneCard:
    return network.describe()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    return record_layers(keras_hub.models.Backbone.from_preset(str(folder)), prepare(images))


def load(folder: Path, size: tuple[int, int] | None = None) -> Network:
    return load_backbone(BackboneRequest(backbone=parse_backbone(f"hub:{folder}"), size=size))


def prepare(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(127.5) - 1


def run(network: Network, specs: list[LayerSpec], images: np.ndarray) -> list[np.ndarray]:
    return TensorFlowProgram(network, ProgramSpec(layers=tuple(specs), preprocess="tf"))(images)


def list_single(card: BackboneCard) -> list[str]:
    return [name for name, layer in card.layers.items() if layer.n_calls == 1]


def assert_close(found: np.ndarray, expected: np.ndarray, what: object) -> None:
    assert found.shape == expected.shape, what
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_every_layer_that_is_listed_is_the_models_own(
    network: Network, card: BackboneCard, images: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    names = list_single(card)
    found = run(network, [LayerSpec(name) for name in names], images)
    for name, values in zip(names, found, strict=True):
        assert card.layers[name].shape == values.shape[1:]
        assert_close(values, expected[name], name)


def test_blocks_and_what_is_inside_them_are_listed(family: str, card: BackboneCard) -> None:
    wanted = {PREFIXES.get(family, "") + name for name in WANTED[family]}
    assert wanted <= set(list_single(card))
    # The text tower is not run.
    assert not [name for name in card.layers if "text" in name or "token_ids" in name]


def test_the_keras_engine_reaches_the_same_layers(
    network: Network, card: BackboneCard, images: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    names = list_single(card)[-6:]
    spec = ProgramSpec(layers=tuple(map(LayerSpec, names)), preprocess="tf")
    for name, values in zip(names, KerasProgram(network, spec)(images), strict=True):
        assert_close(values, expected[name], name)


def test_token_poolings_know_which_tokens_are_which(
    family: str,
    network: Network,
    card: BackboneCard,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
) -> None:
    name = PREFIXES.get(family, "") + WANTED[family][0]
    if family not in TOKENS:
        with pytest.raises(InputError, match="write 'stack1_block0_out:avg'"):
            card.layers[name].pool_shape(LayerSpec(name, "tokens"))
        return
    n_class, n_before = TOKENS[family]
    whole = expected[name]
    patches = whole[:, n_before:].mean(axis=1)
    if not n_class:
        (found,) = run(network, [LayerSpec(name, "tokens")], images)
        assert_close(found, patches, name)
        with pytest.raises(InputError, match=r"has no class token for 'cls'; .*:tokens"):
            card.layers[name].pool_shape(LayerSpec(name, "cls"))
        return
    specs = [LayerSpec(name, pooling) for pooling in ("cls", "tokens", "cls_tokens", "last4")]
    number = int(name[-1])
    blocks = [f"{name[:-1]}{n}" for n in range(number - 3, number + 1)]
    if family in ("deit", "vit"):  # Their blocks are counted from 1.
        specs[-1] = LayerSpec(f"{name[:-1]}4", "last4")
        blocks = [f"{name[:-1]}{n}" for n in range(1, 5)]
    wanted = [
        whole[:, 0],
        patches,
        np.concatenate([whole[:, 0], patches], axis=1),
        np.concatenate([expected[block][:, 0] for block in blocks], axis=1),
    ]
    for spec, found, values in zip(specs, run(network, specs, images), wanted, strict=True):
        assert_close(found, values, spec)
        assert card.layers[spec.layer].pool_shape(spec) == values.shape[1:]


def test_last4_of_the_whole_encoder_is_that_of_its_last_four_blocks(tmp_path: Path) -> None:
    card = load(save_preset("vit", tmp_path)).describe()
    tokens = card.layers["vit_encoder"].tokens
    assert tokens is not None
    assert tokens.blocks == tuple(f"vit_encoder.transformer_block_{n}" for n in (2, 3, 4, 5))
    early = LayerSpec("vit_encoder.transformer_block_3", "last4")
    with pytest.raises(InputError, match="has 3 blocks up to it, and 'last4' needs 4"):
        card.layers[early.layer].pool_shape(early)


def test_size_is_another_where_the_model_interpolates_itself(tmp_path: Path) -> None:
    folder = save_preset("dinov2", tmp_path / "dinov2")
    network = load(folder, (48, 48))
    other = keras_hub.models.Backbone.from_preset(str(folder), image_shape=(48, 48, 3))
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    (found,) = run(network, [LayerSpec("layernorm")], images)
    assert_close(found, np.asarray(other({"images": prepare(images)})), "layernorm")
    for family in ("vit", "clip"):
        with pytest.raises(InputError, match="drop --size") as caught:
            load(save_preset(family, tmp_path / family), (48, 48))
        assert "\n" not in str(caught.value)
