"""OpenVINO's features are compared with plain Keras."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from permafrost.stages.frameworks.start import start_tensorflow

pytest.importorskip("openvino")
start_tensorflow()

import keras  # noqa: E402
from keras import layers as kl  # noqa: E402
from sklearn.datasets import load_sample_image  # noqa: E402

from permafrost.stages.backbones.layers import parse_layer_specs  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork  # noqa: E402
from permafrost.stages.engines.openvino_engine import OpenVinoProgram  # noqa: E402
from permafrost.stages.engines.program import ProgramSpec  # noqa: E402
from permafrost.stages.errors import UnknownNameError  # noqa: E402
from tests.helpers.grids import average_cells  # noqa: E402

SIDE = 32
SPECS = "conv,conv:avg,conv:max,conv:flatten,conv:grid3,relu,depthwise:avg,gap,gap:flatten,dense"


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
            kl.GlobalAveragePooling2D(name="gap"),
            kl.Dense(8, activation="softmax", name="dense"),
        ]
    )
    network = KerasNetwork(model)
    network.size = (SIDE, SIDE)
    return network


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    china = load_sample_image("china.jpg")
    return np.stack([china[n : n + SIDE, 3 * n : 3 * n + SIDE] for n in range(0, 72, 8)])


def build(network: KerasNetwork, **options: Any) -> OpenVinoProgram:
    spec = {"layers": tuple(parse_layer_specs(SPECS)), "preprocess": "caffe", **options}
    return OpenVinoProgram(lambda: network, ProgramSpec(**spec))


def compute_with_keras(network: KerasNetwork, pixels: np.ndarray) -> dict[str, np.ndarray]:
    model = network.model
    names = [layer.name for layer in model.layers]
    whole = keras.Model(model.inputs, [layer.output for layer in model.layers])
    batch = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    found = dict(zip(names, whole.predict(batch, verbose=0), strict=True))
    for name in ("conv", "depthwise"):
        values = found[name]
        found |= {f"{name}:avg": values.mean((1, 2)), f"{name}:max": values.max((1, 2))}
        found[f"{name}:flatten"] = values.reshape(len(values), -1)
        found[f"{name}:grid3"] = average_cells(values, 3)
    return found | {"gap:flatten": found["gap"]}


def test_every_layer_and_pooling_equals_plain_keras_in_batches_of_any_size(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    expected = compute_with_keras(network, pixels)
    program = build(network)
    for n_images in (1, 3, 4, 5, 9):
        outputs = program(pixels[:n_images])
        for spec, ours in zip(SPECS.split(","), outputs, strict=True):
            theirs = expected[spec][:n_images]
            assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_row_is_the_same_whatever_its_neighbours(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    program = build(network)
    whole = program(pixels)
    for ours, alone in zip(whole, program(pixels[6:7]), strict=True):
        np.testing.assert_array_equal(ours[6:7], alone)


def test_outputs_of_one_batch_stay_when_the_next_one_runs(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    program = build(network)
    first = program(pixels)
    copies = [output.copy() for output in first]
    program(255 - pixels)
    for output, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_two_batches_at_once_give_what_they_give_one_after_the_other(
    network: KerasNetwork, pixels: np.ndarray
) -> None:
    program = build(network)
    batches = [np.roll(pixels, shift, axis=0)[: 1 + shift % 9] for shift in range(40)]
    expected = [program(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(program, batches))
    for ours, theirs in zip(found, expected, strict=True):
        for output, alone in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(output, alone)


@pytest.mark.slow
def test_the_mirror_image_is_the_image_mirrored(network: KerasNetwork, pixels: np.ndarray) -> None:
    mirrored = build(network, view="hflip")(pixels)
    flipped = build(network)(np.ascontiguousarray(pixels[:, :, ::-1]))
    for ours, theirs in zip(mirrored, flipped, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bfloat16_gives_float32_near_plain_keras(network: KerasNetwork, pixels: np.ndarray) -> None:
    expected = compute_with_keras(network, pixels)
    outputs = build(network, precision="bfloat16")(pixels)
    for spec, ours in zip(SPECS.split(","), outputs, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected[spec], atol=2**-5 * np.abs(expected[spec]).max())


def test_a_precision_that_openvino_lacks_is_refused(network: KerasNetwork) -> None:
    with pytest.raises(UnknownNameError, match="unknown precision 'float16' of OpenVINO"):
        build(network, precision="float16")


def test_outputs_of_one_shape_are_not_swapped_behind_what_moves_axes(pixels: np.ndarray) -> None:
    image = keras.Input((SIDE, SIDE, 3))
    moved = kl.Permute((3, 1, 2))(kl.Conv2D(5, 3)(image))
    pooled = kl.MaxPooling2D(data_format="channels_first")(moved)
    network = KerasNetwork(keras.Model(image, kl.ReLU(name="last")(pooled)))
    network.size = (SIDE, SIDE)
    specs = tuple(parse_layer_specs("last:avg,last:max,last"))
    program = OpenVinoProgram(lambda: network, ProgramSpec(layers=specs, preprocess="none"))
    average, largest, whole = program(pixels)
    np.testing.assert_allclose(average, whole.mean((2, 3)), rtol=1e-4)
    np.testing.assert_allclose(largest, whole.max((2, 3)), rtol=1e-4)
