"""Channels are pooled where they are, and a layer that is called several times is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from permafrost.stages.backbones.layers import BackboneCard, parse_layer_specs
from permafrost.stages.backbones.network import KerasNetwork, Network
from permafrost.stages.backbones.savedmodel import load_saved_model
from permafrost.stages.engines.keras_engine import KerasProgram
from permafrost.stages.engines.program import Program, ProgramSpec
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import InputError

SIDE = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def wrap(model: Any) -> KerasNetwork:
    network = KerasNetwork(model)
    network.size = (SIDE, SIDE)
    return network


def build(*steps: Any) -> KerasNetwork:
    """Chain layers and operations behind a convolution with five filters."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3))
    last = kl.Conv2D(5, 3, name="conv")(image)
    for step in steps:
        last = step(last)
    return wrap(keras.Model(image, last))


def build_first() -> KerasNetwork:
    return build(
        kl.Permute((3, 1, 2), name="moved"),
        kl.MaxPooling2D(data_format="channels_first", name="pool"),
        kl.ReLU(name="relu"),
        kl.Permute((2, 3, 1), name="back"),
    )


def check_pooled(program: Program, axes: tuple[int, int]) -> None:
    whole, average, largest = program(PIXELS)
    np.testing.assert_allclose(average, whole.mean(axes), rtol=1e-4)
    np.testing.assert_array_equal(largest, whole.max(axes))


@pytest.mark.parametrize("program", [TensorFlowProgram, KerasProgram])
def test_channels_that_come_first_are_what_pooling_keeps(program: Any) -> None:
    network = build_first()
    for layer, axes in (("conv", (1, 2)), ("moved", (2, 3)), ("relu", (2, 3)), ("back", (1, 2))):
        specs = tuple(parse_layer_specs(f"{layer},{layer}:avg,{layer}:max"))
        check_pooled(program(network, ProgramSpec(layers=specs, preprocess="none")), axes)


def test_a_saved_model_tells_where_its_channels_are(tmp_path: Any) -> None:
    build_first().model.export(tmp_path, verbose=False)
    network = load_saved_model(tmp_path)
    network.size = (SIDE, SIDE)
    before = network.digest_layers()
    specs = tuple(parse_layer_specs("relu,relu:avg,relu:max"))
    check_pooled(TensorFlowProgram(network, ProgramSpec(layers=specs, preprocess="none")), (2, 3))
    layers = network.describe().layers
    assert [layers[name].channel_axis for name in ("conv", "relu", "back")] == [-1, 1, -1]
    assert network.digest_layers() == before


@pytest.mark.parametrize(
    ("steps", "axis"),
    [
        ((), -1),
        ((kl.Reshape((6, 6, 5)),), -1),  # nothing is known, so Keras' own setting
        ((kl.Reshape((5, 6, 6)), kl.GlobalAveragePooling2D("channels_first", name="gap")), 1),
        ((kl.Reshape((5, 6, 6)), kl.ReLU(), kl.Flatten("channels_first")), 1),
        ((kl.Permute((2, 1, 3)),), -1),
        ((kl.Permute((1, 3, 2)),), 2),
        ((lambda x: ops.transpose(x, (0, -1, 1, 2)), kl.ReLU()), 1),
        ((lambda x: ops.swapaxes(x, 1, 3), kl.ReLU()), -1),
        ((kl.Permute((3, 1, 2)), kl.TimeDistributed(kl.Conv1D(2, 2)), kl.ReLU()), -1),
        (
            (
                kl.Permute((1, 3, 2)),
                kl.TimeDistributed(kl.MaxPooling1D(2, data_format="channels_first"), name="each"),
            ),
            2,
        ),
    ],
)
def test_the_graph_tells_where_channels_are(steps: tuple[Any, ...], axis: int) -> None:
    network = build(*steps)
    layers = [layer for layer in network.model.layers if len(layer.output.shape) > 3]
    assert network.find_channel_axis(layers[-1].name) == axis


def test_layers_of_nested_models_tell_where_their_channels_are() -> None:
    image = keras.Input((5, 6, 6))
    inner = keras.Model(image, kl.ReLU(name="relu")(image), name="inner")
    network = build(kl.Permute((3, 1, 2)), inner)
    assert network.find_channel_axis("inner/relu") == network.find_channel_axis("inner") == 1


def share(layer: Any) -> BackboneCard:
    image = keras.Input((SIDE, SIDE, 3))
    first = kl.ReLU(name="first")(layer(image))
    return wrap(keras.Model(image, kl.ReLU(name="second")(layer(first)))).describe()


def test_a_layer_that_is_called_twice_is_refused_and_those_behind_it_are_not() -> None:
    card = share(kl.Conv2D(3, 1, name="conv"))
    with pytest.raises(InputError, match=r"'conv' of .* is called 2 times.*name a layer"):
        card.find_layer("conv")
    assert card.find_layer("second").shape == card.find_layer("first").shape
    assert BackboneCard.from_json(card.to_json()) == card


def test_the_layers_of_a_model_that_is_called_twice_are_refused() -> None:
    inner = keras.Sequential([kl.Input((SIDE, SIDE, 3)), kl.Conv2D(3, 1, name="conv")], name="in")
    for name in ("in", "in/conv"):
        with pytest.raises(InputError, match="is called 2 times"):
            share(inner).find_layer(name)


def test_a_call_that_is_no_part_of_the_network_does_not_count() -> None:
    layer = kl.Conv2D(3, 1, name="conv")
    image = keras.Input((SIDE, SIDE, 3))
    layer(kl.ReLU()(image))
    network: Network = wrap(keras.Model(image, layer(image)))
    assert network.describe().find_layer("conv").n_calls == 1
