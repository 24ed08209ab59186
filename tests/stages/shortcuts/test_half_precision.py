"""Layers that compute in half precision while they are traced, against Keras' own policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
from keras import layers  # noqa: E402

from permafrost.stages.backbones.layers import LayerSpec  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork  # noqa: E402
from permafrost.stages.engines.program import ProgramSpec  # noqa: E402
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram  # noqa: E402
from permafrost.stages.shortcuts.choice import WAYS, find_shortcuts  # noqa: E402
from permafrost.stages.shortcuts.half_precision import computing_in  # noqa: E402

SIZE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
# Two units of bfloat16: where a value is rounded depends on what is fused.
CLOSE = 2**-7


def build(half: str = "float32") -> Any:
    """Build a network with most kinds of layers; all but the delicate ones of some policy."""
    images = keras.Input((SIZE, SIZE, 3))
    values = layers.Conv2D(64, 3, padding="same", name="first")(images)
    values = layers.BatchNormalization(name="norm_first")(values)
    values = layers.Conv2D(64, 3, padding="same", use_bias=False, dtype=half, name="conv")(values)
    values = layers.BatchNormalization(dtype=half, name="norm_conv")(values)
    before = values = layers.ReLU(dtype=half, name="relu")(values)
    values = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(values)
    values = layers.BatchNormalization(name="norm_depthwise")(values)
    values = layers.Activation("silu", name="silu")(values)
    values = layers.SeparableConv2D(64, 3, padding="same", dtype=half, name="separable")(values)
    values = layers.BatchNormalization(dtype=half, name="norm_separable")(values)
    values = layers.Add(dtype=half, name="add")([values, before])
    values = layers.BatchNormalization(dtype=half, name="alone")(values)
    values = layers.Reshape((-1, 64), dtype=half, name="tokens")(values)
    attention = layers.MultiHeadAttention(2, 16, dtype=half, name="attention")
    values = layers.GlobalAveragePooling1D(dtype=half, name="mean")(attention(values, values))
    values = layers.Dense(8, activation="gelu", dtype=half, name="dense")(values)
    return keras.Model(images, layers.Softmax(name="softmax")(values))


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    made = build()
    generator = np.random.default_rng(1)
    for layer in made.layers:
        if isinstance(layer, layers.BatchNormalization):
            drawn = [generator.normal(0, 0.3, weight.shape) for weight in layer.get_weights()]
            layer.set_weights([1 + drawn[0], drawn[1], drawn[2], 1 + abs(drawn[3])])
    return made


def run(model: Any, names: list[str], way: str, precision: str) -> list[np.ndarray]:
    network = KerasNetwork(model)
    network.size = (SIZE, SIZE)
    spec = ProgramSpec(
        layers=tuple(LayerSpec(name) for name in names), preprocess="tf", precision=precision
    )
    return TensorFlowProgram(network, spec, shortcuts=find_shortcuts(way, precision))(IMAGES)


def predict(model: Any, names: list[str]) -> list[np.ndarray]:
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    found = part.predict_on_batch(IMAGES / np.float32(127.5) - 1)
    return [np.asarray(values, np.float32) for values in found]


def differ(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_the_plain_way_is_that_of_keras_policy(model: Any) -> None:
    names = ["first", "relu", "silu", "add", "mean", "dense"]
    theirs = build("mixed_bfloat16")
    theirs.set_weights(model.get_weights())
    pairs = zip(run(model, names, "plain", "bfloat16"), predict(theirs, names), strict=True)
    for name, (ours, expected) in zip(names, pairs, strict=True):
        assert differ(ours, expected) < CLOSE, name


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_near_float32_and_rounds(model: Any, way: str) -> None:
    names = ["norm_first", "relu", "silu", "norm_separable", "alone", "dense"]
    ours = run(model, names, way, "bfloat16")
    errors = dict(zip(names, map(differ, ours, predict(model, names)), strict=True))
    assert errors["norm_first"] < 1e-6
    assert 2**-14 < min(list(errors.values())[1:]) <= max(errors.values()) < 2**-5


def test_pixels_depthwise_products_and_exponentials_stay_float32(model: Any) -> None:
    with computing_in("bfloat16", model):
        exact = {layer.name for layer in model.layers if layer.compute_dtype == "float32"}
    names = {"first", "norm_first", "depthwise", "norm_depthwise", "silu", "softmax"}
    # The convolution that normalizes within itself comes after the first product.
    assert exact - {layer.name for layer in model.layers[:1]} == names


def test_weights_of_halved_layers_may_be_held_in_half(model: Any) -> None:
    with computing_in("bfloat16", model) as halved:
        held = {variable.path for variable in model.variables if id(variable) in halved}
    projections = {
        f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")
    }
    biases = {f"attention/{part}/bias" for part in ("query", "key", "value")}
    others = {
        "conv/kernel",
        "separable/depthwise_kernel",
        "separable/pointwise_kernel",
        "dense/kernel",
    }
    assert held == projections | biases | others


def test_only_ways_that_differ_are_ways_of_a_network(model: Any) -> None:
    images = keras.Input((SIZE, SIZE, 3))
    wide = layers.Conv2D(64, 3)(layers.Conv2D(64, 1)(images))
    normalized = layers.BatchNormalization()(layers.Conv2D(8, 3)(images))
    attending = layers.LayerNormalization()(layers.Dense(8)(images))
    found = [KerasNetwork(keras.Model(images, one)).ways for one in (wide, normalized, attending)]
    assert found == [{"plain", "winograd"}, {"plain", "folded"}, {"plain"}]
    assert KerasNetwork(model).ways == set(WAYS)


def test_layers_are_as_before_once_they_were_traced(model: Any) -> None:
    def describe() -> list[tuple[Any, ...]]:
        every = model._flatten_layers()
        return [(each, each.dtype_policy, getattr(each, "activation", None)) for each in every]

    before = describe()
    with computing_in("bfloat16", model):
        assert describe() != before
    assert describe() == before
    run(model, ["dense"], "folded", "bfloat16")
    assert describe() == before


def test_a_layer_made_of_others_meets_the_pixels_in_float32() -> None:
    class Patches(layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="patches")
            self.cut = layers.Conv2D(8, 4, 4)
            self.mix = layers.Conv2D(8, 1)

        def call(self, images: Any) -> Any:
            return self.mix(self.cut(images))

    images = keras.Input((SIZE, SIZE, 3))
    patches = Patches()
    model = keras.Model(images, layers.Conv2D(8, 1, name="last")(patches(images)))
    with computing_in("bfloat16", model):
        dtypes = [each.compute_dtype for each in (patches, patches.cut, patches.mix)]
        assert dtypes == ["float32", "float32", "bfloat16"]
        assert model.get_layer("last").compute_dtype == "bfloat16"
