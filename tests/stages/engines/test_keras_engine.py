"""The features of ``--engine keras`` are those of plain Keras, on the backend that is set."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_keras

start_keras()

import keras  # noqa: E402
from keras import layers as kl  # noqa: E402
from keras import ops  # noqa: E402
from sklearn.datasets import load_sample_image  # noqa: E402

from permafrost.stages.backbones.applications import APPLICATIONS, parse_backbone  # noqa: E402
from permafrost.stages.backbones.layers import parse_layer_specs  # noqa: E402
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork  # noqa: E402
from permafrost.stages.backbones.pooling import pool  # noqa: E402
from permafrost.stages.backbones.preprocessing import preprocess  # noqa: E402
from permafrost.stages.engines.keras_engine import KerasProgram  # noqa: E402
from permafrost.stages.engines.program import (  # noqa: E402
    HalvingProgram,
    OutOfMemoryError,
    ProgramSpec,
)
from permafrost.stages.errors import InputError, UnknownNameError  # noqa: E402
from tests.helpers.grids import average_cells  # noqa: E402

SIDE = 32
SPECS = "conv,conv:avg,conv:max,conv:flatten,conv:grid3,relu,depthwise:avg,gap,gap:flatten,dense"


def cut_photos(side: int) -> np.ndarray:
    china = load_sample_image("china.jpg")
    return np.stack([china[n : n + side, 3 * n : 3 * n + side] for n in range(0, 72, 8)])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return cut_photos(SIDE)


def wrap(model: Any) -> KerasNetwork:
    network = KerasNetwork(model)
    network.size = (SIDE, SIDE)
    return network


@pytest.fixture(scope="module")
def network() -> KerasNetwork:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            kl.Input((SIDE, SIDE, 3)),
            kl.Conv2D(16, 3, strides=2, padding="same", bias_initializer="uniform", name="conv"),
            kl.BatchNormalization(moving_mean_initializer="ones", name="norm"),
            kl.ReLU(name="relu"),
            kl.DepthwiseConv2D(3, name="depthwise"),
            kl.Conv2D(8, 3, name="last"),
            kl.GlobalAveragePooling2D(name="gap"),
            kl.Dense(8, activation="softmax", name="dense"),
        ]
    )
    return wrap(model)


def build(network: Any, layers: str, **options: Any) -> KerasProgram:
    building = {name: options.pop(name) for name in ("batch_size", "compiled") if name in options}
    spec = {"layers": tuple(parse_layer_specs(layers)), "preprocess": "none", **options}
    return KerasProgram(network, ProgramSpec(**spec), **building)


def predict(model: Any, names: list[str], inputs: np.ndarray) -> dict[str, np.ndarray]:
    whole = keras.Model(model.inputs, {name: model.get_layer(name).output for name in names})
    found: dict[str, np.ndarray] = whole.predict(inputs, verbose=0)
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    assert np.ptp(theirs.astype(np.float64), axis=0).max() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# Numbers


@pytest.mark.parametrize(
    ("application", "size", "layers"),
    [
        ("vgg16", 32, "block2_pool,block5_pool"),
        ("resnet50", 32, "conv2_block3_out,conv3_block4_out"),
        ("mobilenet(alpha=0.25)", 32, "conv_pw_6_relu,conv_pw_13_relu"),
        pytest.param(
            *("efficientnet_b0", 32, "block3b_add,top_activation"), marks=pytest.mark.slow
        ),
    ],
)
def test_features_of_applications_equal_plain_keras(
    application: str, size: int, layers: str
) -> None:
    backbone = parse_backbone(application)
    request = BackboneRequest(backbone=backbone, weights="random", size=(size, size))
    network = load_backbone(request)
    entry = APPLICATIONS[backbone.name]
    pixels = cut_photos(size)[:3]
    ours = build(network, layers, preprocess=entry.preprocess)(pixels)
    module: Any = inspect.getmodule(getattr(keras.applications, entry.function))
    inputs = module.preprocess_input(pixels.astype(np.float32))
    names = layers.split(",")
    theirs = predict(network.model, names, inputs)  # type: ignore[attr-defined]
    for name, mine in zip(names, ours, strict=True):
        assert difference(mine, theirs[name]) < 1e-4


@pytest.mark.parametrize("compiled", [True, False])
def test_every_layer_and_pooling_equals_plain_keras_in_batches_of_any_size(
    network: KerasNetwork, pixels: np.ndarray, compiled: bool
) -> None:
    inputs = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    names = [layer.name for layer in network.model.layers]
    expected = predict(network.model, names, inputs)
    for name in ("conv", "depthwise"):
        values = expected[name]
        expected |= {f"{name}:avg": values.mean((1, 2)), f"{name}:max": values.max((1, 2))}
        expected[f"{name}:flatten"] = values.reshape(len(values), -1)
        expected[f"{name}:grid3"] = average_cells(values, 3)
    expected["gap:flatten"] = expected["gap"]
    program = build(network, SPECS, preprocess="caffe", compiled=compiled, batch_size=4)
    for n_images in (1, 3, 4, 5, 9):
        for spec, ours in zip(SPECS.split(","), program(pixels[:n_images]), strict=True):
            theirs = expected[spec][:n_images]
            assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "none"])
@pytest.mark.parametrize("view", ["identity", "hflip"])
def test_preprocessing_and_pooling_are_those_of_keras_and_numpy(
    mode: str, view: str, pixels: np.ndarray
) -> None:
    from keras.src.applications.imagenet_utils import preprocess_input

    images = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    poolings = ("none", "avg", "max", "flatten")
    ready = preprocess(images, mode=mode, view=view)
    model = keras.Model(images, [pool(keras.ops, ready, one, channel_axis=-1) for one in poolings])
    seen = pixels[:, :, ::-1] if view == "hflip" else pixels
    expected = seen.astype(np.float32)
    if mode != "none":
        expected = preprocess_input(expected, data_format="channels_last", mode=mode)
    theirs = (
        expected,
        expected.mean((1, 2)),
        expected.max((1, 2)),
        expected.reshape(len(seen), -1),
    )
    for ours, plain in zip(model.predict_on_batch(pixels), theirs, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-4)


def test_the_mirror_image_is_the_image_mirrored(network: KerasNetwork, pixels: np.ndarray) -> None:
    mirrored = build(network, SPECS, view="hflip")(pixels)
    flipped = build(network, SPECS)(np.ascontiguousarray(pixels[:, :, ::-1]))
    for ours, theirs in zip(mirrored, flipped, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_of_nested_models_equal_the_models_run_one_after_the_other(
    pixels: np.ndarray,
) -> None:
    innermost = keras.Sequential(
        [kl.Input((28, 28, 5)), kl.Conv2D(6, 3, name="deep"), kl.ReLU(name="cut")]
    )
    middle_in = kl.Input((30, 30, 4))
    middle_out = kl.Conv2D(5, 3, name="before")(middle_in)
    middle = keras.Model(middle_in, kl.MaxPooling2D(name="pool")(innermost(middle_out)))
    middle.name, innermost.name = "middle", "innermost"
    images = kl.Input((SIDE, SIDE, 3))
    first = kl.Conv2D(4, 3, name="first")(images)
    model = keras.Model(images, kl.Flatten(name="flat")(middle(first)))

    names = ["first", "middle/before", "middle/innermost/deep", "middle/innermost", "middle"]
    assert set(names) < set(wrap(model).describe().layers)
    ours = dict(zip(names, build(wrap(model), ",".join(names))(pixels), strict=True))
    theirs = {"first": keras.Model(images, first).predict(pixels.astype("float32"), verbose=0)}
    theirs |= {
        f"middle/{name}": values
        for name, values in predict(middle, ["before"], theirs["first"]).items()
    }
    deep = predict(innermost, ["deep"], theirs["middle/before"])
    theirs["middle/innermost/deep"] = deep["deep"]
    theirs["middle/innermost"] = innermost.predict(theirs["middle/before"], verbose=0)
    theirs["middle"] = middle.predict(theirs["first"], verbose=0)
    for name in names:
        assert difference(ours[name], theirs[name]) < 1e-4


def test_a_model_of_any_size_takes_the_size_asked_for(pixels: np.ndarray) -> None:
    model = keras.Sequential([kl.Input((None, None, 1)), kl.Conv2D(2, 3, name="conv")])
    grey = pixels[..., :1]
    (ours,) = build(wrap(model), "conv", preprocess="tf")(grey)
    assert difference(ours, model.predict(grey / 127.5 - 1.0, verbose=0)) < 1e-5


# Half precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_float32_near_plain_keras_and_leaves_the_network_alone(
    network: KerasNetwork, pixels: np.ndarray, precision: str
) -> None:
    names = ["conv", "depthwise", "last", "dense"]
    inputs = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    program = build(network, ",".join(names), preprocess="caffe", precision=precision)
    ours = dict(zip(names, program(pixels), strict=True))
    theirs = predict(network.model, names, inputs)
    assert {layer.compute_dtype for layer in network.model.layers} == {"float32"}
    # What meets the pixels is not rounded.
    assert difference(ours["conv"], theirs["conv"]) < 1e-6
    for name in names[1:]:
        assert 1e-6 < difference(ours[name], theirs[name]) < 2**-5


def test_layers_of_nested_models_compute_in_half_precision_too(pixels: np.ndarray) -> None:
    inner = keras.Sequential([kl.Input((30, 30, 4)), kl.Conv2D(6, 3, name="deep")], name="inner")
    model = keras.Sequential([kl.Input((SIDE, SIDE, 3)), kl.Conv2D(4, 3), inner])
    (ours,) = build(wrap(model), "inner/deep", precision="bfloat16")(pixels)
    theirs = model.predict(pixels.astype(np.float32), verbose=0)
    assert 1e-6 < difference(ours, theirs) < 2**-6


def test_an_unknown_precision_or_view_proposes_the_nearest(network: KerasNetwork) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown precision 'bfloat'; .*'bfloat16'"):
        build(network, "conv", precision="bfloat")
    with pytest.raises(UnknownNameError, match="unknown view 'hflop'; did you mean 'hflip'"):
        build(network, "conv", view="hflop")


# Batches


def count_shapes(program: KerasProgram) -> list[int]:
    """Note how many images each batch has that the program really runs."""
    seen: list[int] = []
    run = program._run

    def noting(batch: np.ndarray) -> Any:
        seen.append(len(batch))
        return run(batch)

    program._run = noting
    return seen


def test_fewer_images_are_filled_up_to_a_batch(network: KerasNetwork, pixels: np.ndarray) -> None:
    program = build(network, "conv", batch_size=4)
    seen = count_shapes(program)
    whole = np.concatenate([program(pixels[n : n + 4])[0] for n in range(0, 9, 4)])
    assert seen == [4, 4, 4]
    np.testing.assert_array_equal(whole[8:], program(pixels[8:])[0])


def test_a_batch_that_does_not_fit_is_halved_and_never_filled_up_to_it_again(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    program = build(network, "conv", batch_size=8)
    run, seen = program._run, []

    def limited(batch: np.ndarray) -> Any:
        seen.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return run(batch)

    program._run = limited
    (ours,) = HalvingProgram(program)(pixels[:7])
    assert seen == [8, 3, 3, 3]
    np.testing.assert_allclose(ours, build(network, "conv")(pixels[:7])[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["OutOfMemoryError", "ResourceExhaustedError", "MemoryError"])
def test_each_backends_way_to_say_that_memory_is_out_is_understood(
    network: KerasNetwork, pixels: np.ndarray, name: str
) -> None:
    program = build(network, "conv")

    def fail(_batch: np.ndarray) -> Any:
        raise type(name, (Exception,), {})

    program._run = fail
    with pytest.raises(OutOfMemoryError, match="a batch of 9 images") as caught:
        program(pixels)
    # It would keep alive what the device's memory is full of.
    assert caught.value.__context__ is None


def test_other_errors_stay_what_they_are(network: KerasNetwork, pixels: np.ndarray) -> None:
    with pytest.raises(Exception, match="shape") as caught:
        build(network, "conv")(pixels[:, :-1])
    assert not isinstance(caught.value, OutOfMemoryError)


def test_outputs_of_one_batch_stay_when_the_next_one_runs(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    program = build(network, SPECS)
    first = program(pixels)
    copies = [output.copy() for output in first]
    program(255 - pixels)
    for output, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


# What only TensorFlow's graphs reach


class OwnModel(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="own")
        self.conv = kl.Conv2D(2, 3, name="conv")

    def call(self, images: Any) -> Any:
        return ops.relu(self.conv(images))


def test_a_model_without_a_graph_names_the_engine_that_runs_it(pixels: np.ndarray) -> None:
    model = OwnModel()
    model(pixels.astype(np.float32))
    with pytest.raises(InputError, match=r"Functional and Sequential .* --engine tensorflow"):
        build(wrap(model), "conv")


def test_a_layer_without_a_graph_names_the_engine_that_runs_it(pixels: np.ndarray) -> None:
    model = keras.Sequential([kl.Input((SIDE, SIDE, 3)), OwnModel(), kl.ReLU(name="relu")])
    model(pixels.astype(np.float32))
    network = wrap(model)
    with pytest.raises(InputError, match=r"'own/conv' lies in 'own', .* tensorflow"):
        build(network, "relu,own/conv")
    assert build(network, "relu")(pixels)[0].shape == (9, 30, 30, 2)


def test_a_network_that_is_no_keras_model_names_the_engine_that_runs_it() -> None:
    with pytest.raises(InputError, match=r"SavedModel folder: .* --engine tensorflow"):
        build(object(), "conv")
