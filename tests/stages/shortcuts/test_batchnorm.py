"""Programs that normalize within convolutions, against plain Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

from permafrost.stages.backbones.layers import LayerSpec  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork  # noqa: E402
from permafrost.stages.engines.program import ProgramSpec, Verdict, Work  # noqa: E402
from permafrost.stages.engines.registry import BUILDERS  # noqa: E402
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram  # noqa: E402
from permafrost.stages.shortcuts.batchnorm import folding_normalizations  # noqa: E402
from permafrost.stages.shortcuts.choice import NO_SHORTCUTS, TOLERANCE, Shortcuts  # noqa: E402

SIZE = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
FOLD = Shortcuts(fold=True, winograd_axes=0)


def normalize(name: str, **options: Any) -> Any:
    return layers.BatchNormalization(name=name, **options)


def build(*steps: Any) -> Any:
    """Build a chain of layers, with the statistics of a network that has been trained."""
    images = values = keras.Input((SIZE, SIZE, 3))
    for step in steps:
        values = step(values)
    return train(keras.Model(images, values))


def train(model: Any) -> Any:
    generator = np.random.default_rng(1)
    for layer in model.layers:
        values = [generator.normal(0, 0.3, weight.shape) for weight in layer.get_weights()]
        if isinstance(layer, layers.BatchNormalization):
            values[-1] = generator.uniform(0.5, 2, values[-1].shape)
        layer.set_weights(values)
    return model


def run(model: Any, names: list[str], shortcuts: Shortcuts) -> list[np.ndarray]:
    network = KerasNetwork(model)
    network.size = (SIZE, SIZE)
    spec = ProgramSpec(layers=tuple(LayerSpec(name) for name in names), preprocess="none")
    return TensorFlowProgram(network, spec, shortcuts=shortcuts)(IMAGES)


def find_folded(model: Any, kept: list[Any]) -> list[str]:
    values = {id(variable): variable.numpy() for variable in model.variables}
    every = model.layers
    with folding_normalizations(every, values=values, hold=tf.constant, kept=kept):
        return [layer.name for layer in every if "call" in vars(layer)]


def check_against_keras(model: Any, names: list[str]) -> None:
    parts = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    expected = parts.predict(IMAGES.astype(np.float32), verbose=0)
    found = run(model, names, FOLD)
    for ours, theirs in zip(found, expected if len(names) > 1 else [expected], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "convolution",
    [
        layers.Conv2D(8, 3, padding="same"),
        layers.Conv2D(8, 3, strides=2, use_bias=False),
        layers.Conv2D(6, 3, groups=3, dilation_rate=2),
        layers.Conv2D(8, 1),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.DepthwiseConv2D(3, depth_multiplier=4, use_bias=False),
        layers.SeparableConv2D(8, 3, depth_multiplier=2),
        layers.SeparableConv2D(8, 3, use_bias=False),
    ],
)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_the_values_are_those_of_keras(convolution: Any, options: dict[str, Any]) -> None:
    copy = type(convolution).from_config(convolution.get_config())
    model = build(copy, normalize("bn", **options), layers.ReLU(name="relu"))
    assert find_folded(model, []) == ["bn"]
    check_against_keras(model, ["bn", "relu"])


def test_what_is_wanted_of_a_convolution_itself_is_not_normalized() -> None:
    model = build(layers.Conv2D(8, 3, name="conv"), normalize("bn"), layers.ReLU(name="relu"))
    assert find_folded(model, [model.get_layer("conv")]) == []
    check_against_keras(model, ["conv", "relu"])


def test_a_convolution_that_others_take_too_is_not_folded() -> None:
    images = keras.Input((SIZE, SIZE, 3))
    values = layers.Conv2D(8, 3)(images)
    joined = layers.Add(name="sum")([normalize("bn")(values), values])
    model = train(keras.Model(images, joined))
    assert find_folded(model, []) == []
    check_against_keras(model, ["sum"])


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    convolution = layers.Conv2D(3, 3, padding="same")
    model = build(convolution, normalize("a"), convolution, normalize("b"))
    assert find_folded(model, []) == []
    check_against_keras(model, ["a", "b"])


@pytest.mark.parametrize(
    "before",
    [
        layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2DTranspose(8, 3),
        layers.MaxPooling2D(),
        layers.Conv2D(8, 3, dtype="mixed_bfloat16"),
    ],
)
def test_what_cannot_be_folded_is_left_alone(before: Any) -> None:
    copy = type(before).from_config(before.get_config())
    model = build(copy, normalize("bn"))
    assert find_folded(model, []) == []


def test_other_axes_are_left_alone() -> None:
    assert find_folded(build(layers.Conv2D(8, 3), normalize("bn", axis=1)), []) == []


def test_layers_are_as_before_once_they_were_traced() -> None:
    model = build(layers.Conv2D(8, 3), normalize("bn"))
    weights = model.get_weights()
    run(model, ["bn"], FOLD)
    assert not any("call" in vars(layer) for layer in model.layers)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def find_verdict(model: Any, name: str) -> Verdict:
    """Have the ways timed, as for a lot of work."""
    network = KerasNetwork(model)
    network.size = (SIZE, SIZE)
    spec = ProgramSpec(layers=(LayerSpec(name),), preprocess="none")
    verdicts: list[Verdict] = []
    work = Work(batch_size=len(IMAGES), n_images=10**9, note=verdicts.append)
    program = BUILDERS["tensorflow"](lambda: network, spec, work)
    for _ in range(20):
        program(IMAGES)
    (verdict,) = verdicts
    return verdict


def test_a_network_that_bears_it_may_be_folded() -> None:
    model = build(layers.Conv2D(8, 3), normalize("bn"), layers.ReLU(name="relu"))
    (folded,), (plain,) = (run(model, ["relu"], shortcuts) for shortcuts in (FOLD, NO_SHORTCUTS))
    assert not np.array_equal(folded, plain)
    assert find_verdict(model, "relu").images_per_second["folded"] > 0


def test_a_network_that_amplifies_rounding_is_computed_as_keras_does() -> None:
    # Channels that hardly vary around a large value, which then is taken away.
    model = build(layers.Conv2D(8, 3, name="conv"), normalize("bn"))
    kernel, _ = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel * 1e-4, np.full(8, 4000.0)])
    model.get_layer("bn").set_weights([np.ones(8), np.zeros(8), np.full(8, 4000.0), np.zeros(8)])
    (folded,), (plain,) = (run(model, ["bn"], shortcuts) for shortcuts in (FOLD, NO_SHORTCUTS))
    assert np.abs(folded - plain).max() > TOLERANCE * np.abs(plain).max()
    verdict = find_verdict(model, "bn")
    assert (verdict.way, verdict.images_per_second["folded"]) == ("plain", 0)
