"""Features are compared with plain Keras: load_img, preprocess_input, Model.predict."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras.initializers import RandomNormal
from PIL import Image
from sklearn.datasets import load_sample_image

from permafrost.stages.backbones.applications import APPLICATIONS, parse_backbone
from permafrost.stages.backbones.layers import LayerSpec, parse_layer_specs
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.network import KerasNetwork
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.engines.keras_engine import KerasProgram
from permafrost.stages.engines.mixed_precision import configure_session
from permafrost.stages.engines.program import ProgramSpec, SharedPrograms
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.engines.tracing import trace_program
from permafrost.stages.errors import InputError, StageError, UnknownNameError
from permafrost.stages.shortcuts.choice import NO_SHORTCUTS, find_shortcuts, list_ways
from permafrost.stages.shortcuts.choice import TOLERANCE as CLOSE
from permafrost.stages.shortcuts.differences import measure_errors
from tests.helpers.grids import average_cells

# oneDNN, which rounds products to bfloat16, has no way to do so on processors without AVX-512.
_PROCESSOR = Path("/proc/cpuinfo")
needs_avx512 = pytest.mark.skipif(
    not (_PROCESSOR.exists() and " avx512f " in _PROCESSOR.read_text()),
    reason="needs a processor with AVX-512",
)
TOLERANCE = 1e-4
SIDE = 32
# For each network, layers inside, at the end and of the classifier.
APPLICATION_LAYERS = {
    "vgg16": ("block2_pool", "block5_pool", "fc1", "predictions"),
    "vgg19": ("block3_conv4", "flatten", "fc2", "predictions"),
    "resnet50": ("conv3_block4_out", "conv5_block3_out", "avg_pool", "predictions"),
    "inception_v3": ("mixed3", "mixed10", "avg_pool"),
}


@pytest.fixture(autouse=True)
def _same_networks():
    """Make a test's networks the same in any order of the tests."""
    keras.utils.set_random_seed(2)


def difference(ours, theirs):
    """Return the largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    largest = np.abs(theirs).max()
    # Images that all give about the same would agree with anything.
    assert np.ptp(theirs.astype(np.float64), axis=0).max() > 10 * TOLERANCE * largest
    return np.abs(ours - theirs).max() / largest


def write_photos(folder, n_photos):
    """Crop scikit-learn's two photographs, all differently."""
    rng = np.random.default_rng(0)
    for number in range(n_photos):
        photo = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
        height, width = rng.integers(100, 300, 2)
        top, left = rng.integers(0, 427 - height), rng.integers(0, 640 - width)
        crop = Image.fromarray(photo[top : top + height, left : left + width])
        crop.save(folder / f"{number:02}.jpg", quality=90)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 32)


@pytest.fixture(scope="module")
def pixels():
    china = load_sample_image("china.jpg")
    return np.stack([china[n : n + SIDE, 3 * n : 3 * n + SIDE] for n in range(0, 40, 8)])


def run(network, specs, batch, *, preprocess="none", **options):
    spec = ProgramSpec(layers=tuple(parse_layer_specs(specs)), preprocess=preprocess, **options)
    program = TensorFlowProgram(network, spec)
    outputs = program(batch)
    program.close()
    return outputs


def wrap(model):
    network = KerasNetwork(model)
    network.size = network.input_shape[:2]
    return network


def predict(model, batch, *tensors):
    outputs = keras.Model(model.inputs, list(tensors)).predict(batch.astype(np.float32), verbose=0)
    return outputs if len(tensors) > 1 else [outputs]


def conv(filters, name, **options):
    # Biases that are not zero, so that each one counts.
    return kl.Conv2D(filters, 3, bias_initializer="uniform", name=name, **options)


def compare_application(name, photos, *, size, batch_sizes):
    backbone = parse_backbone(f"{name}(classes=10)")
    request = BackboneRequest(backbone=backbone, weights="random", size=(size, size))
    network = load_backbone(request, with_top=True)
    model, entry = network.model, APPLICATIONS[name]
    names = APPLICATION_LAYERS[name]
    decoding = DecodeSpec(height=size, width=size)
    batch = np.stack([decode_image(photo.read_bytes(), decoding).pixels for photo in photos])

    images = [
        keras.utils.img_to_array(
            keras.utils.load_img(photo, target_size=(size, size), interpolation="bilinear")
        )
        for photo in photos
    ]
    module = inspect.getmodule(getattr(keras.applications, entry.function))
    inputs = module.preprocess_input(np.stack(images))
    expected = predict(model, inputs, *(model.get_layer(layer).output for layer in names))

    spec = ProgramSpec(
        layers=tuple(LayerSpec(layer) for layer in names), preprocess=entry.preprocess
    )
    ways = list_ways("float32", normalizes=network.normalizes, on_gpu=False)
    plain = TensorFlowProgram(network, spec)
    for way in ways:
        program = TensorFlowProgram(network, spec, shortcuts=find_shortcuts(way, "float32"))
        ((largest, _), *_) = sorted(measure_errors(program, plain, [batch[:8]]), reverse=True)
        if network.normalizes and largest > CLOSE:
            program.close()
            continue  # It would not be taken.
        for batch_size in batch_sizes:
            parts = [program(batch[n : n + batch_size]) for n in range(0, len(batch), batch_size)]
            for ours, theirs in zip(zip(*parts, strict=True), expected, strict=True):
                assert difference(np.concatenate(ours), theirs) < TOLERANCE
        program.close()
    plain.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "inception_v3" else name
        for name in APPLICATION_LAYERS
    ],
)
def test_features_of_small_photos_equal_plain_keras(name, photos):
    size = {"inception_v3": 75, "resnet50": 64}.get(name, 32)
    compare_application(name, photos[:9], size=size, batch_sizes=(1, 7, 32))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", APPLICATION_LAYERS)
def test_features_of_photos_at_default_size_equal_plain_keras(name, photos):
    compare_application(name, photos, size=APPLICATIONS[name].size, batch_sizes=(1, 7, 32))


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("efficientnet_b0", "convnext_tiny")),
    ],
)
def test_networks_that_preprocess_themselves_take_raw_pixels(name, pixels):
    request = BackboneRequest(backbone=parse_backbone(name), weights="random", size=(SIDE, SIDE))
    network = load_backbone(request)
    last = network.model.layers[-1].name
    (ours,) = run(network, last, pixels, preprocess=APPLICATIONS[name].preprocess)
    assert difference(ours, network.model.predict(pixels.astype(np.float32), verbose=0)) < TOLERANCE


def test_layers_of_nested_models_equal_the_models_run_one_after_the_other(pixels):
    innermost = keras.Sequential([kl.Input((28, 28, 5)), conv(6, "deep"), kl.ReLU(name="cut")])
    middle_in = kl.Input((30, 30, 4))
    middle_out = conv(5, "before")(middle_in)
    middle = keras.Model(middle_in, kl.MaxPooling2D(name="pool")(innermost(middle_out)))
    middle.name, innermost.name = "middle", "innermost"
    images = kl.Input((SIDE, SIDE, 3))
    first = conv(4, "first")(images)
    model = keras.Model(images, kl.Flatten(name="flat")(middle(first)))

    names = ["first", "middle/before", "middle/innermost/deep", "middle/innermost", "middle"]
    ours = dict(zip(names, run(wrap(model), names, pixels), strict=True))
    theirs = {"first": predict(model, pixels, first)[0]}
    theirs["middle/before"] = predict(middle, theirs["first"], middle_out)[0]
    deep = innermost.get_layer("deep").output
    theirs["middle/innermost/deep"] = predict(innermost, theirs["middle/before"], deep)[0]
    theirs["middle/innermost"] = innermost.predict(theirs["middle/before"], verbose=0)
    theirs["middle"] = middle.predict(theirs["first"], verbose=0)
    for name in names:
        assert difference(ours[name], theirs[name]) < TOLERANCE


def test_a_sequential_model_equals_plain_keras_at_every_layer(pixels):
    model = keras.Sequential(
        [
            kl.Input((SIDE, SIDE, 3)),
            conv(4, "conv", activation="relu"),
            kl.BatchNormalization(name="norm", moving_mean_initializer="ones"),
            kl.Dropout(0.5, name="drop"),
            kl.GlobalAveragePooling2D(name="gap"),
            # Small weights, so that no image is told for certain.
            kl.Dense(3, "softmax", kernel_initializer=RandomNormal(stddev=0.01), name="head"),
        ]
    )
    names = [layer.name for layer in model.layers]
    theirs = predict(model, pixels, *(layer.output for layer in model.layers))
    for ours, expected in zip(run(wrap(model), names, pixels), theirs, strict=True):
        assert difference(ours, expected) < TOLERANCE


def test_a_shared_layer_gives_its_first_output(pixels):
    shared = conv(3, "shared", padding="same")
    images = kl.Input((SIDE, SIDE, 3))
    first = shared(images)
    second = kl.ReLU(name="relu")(shared(kl.ReLU()(first)))
    model = keras.Model(images, second)
    ours = run(wrap(model), ["shared", "relu"], pixels)
    for mine, theirs in zip(ours, predict(model, pixels, first, second), strict=True):
        assert difference(mine, theirs) < TOLERANCE


def test_a_layer_that_is_part_of_two_models_can_be_traced_again_and_again(pixels):
    shared = conv(3, "shared", padding="same")
    inner = keras.Sequential([kl.Input((SIDE, SIDE, 3)), shared, kl.ReLU()], name="inner")
    images = kl.Input((SIDE, SIDE, 3))
    first = shared(images)
    model = keras.Model(images, inner(first))
    network = wrap(model)
    assert {"shared", "inner", "inner/shared"} < set(network.describe().layers)
    (theirs,) = predict(model, pixels, first)
    for _ in range(2):
        assert difference(run(network, "shared", pixels)[0], theirs) < TOLERANCE
    # Recording leaves no trace: the model is as it was.
    assert "call" not in vars(shared)


def test_a_model_of_grey_images_equals_plain_keras(pixels):
    model = keras.Sequential([kl.Input((SIDE, SIDE, 1)), conv(32, "a"), kl.ReLU(name="b")])
    grey = pixels[..., :1]
    (ours,) = run(wrap(model), "b", grey, preprocess="tf")
    assert difference(ours, model.predict(grey / 127.5 - 1.0, verbose=0)) < TOLERANCE


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_of_mixed_precision_gives_float32(policy, pixels):
    model = keras.Sequential(
        [kl.Input((SIDE, SIDE, 3)), conv(4, "a", dtype=policy), kl.ReLU(name="b", dtype=policy)]
    )
    assert model.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    (ours,) = run(wrap(model), "b", pixels, preprocess="tf")
    theirs = model.predict(pixels / 127.5 - 1.0, verbose=0).astype(np.float32)
    # Half precision is rounded elsewhere in a graph than in a function: two units of bfloat16.
    assert difference(ours, theirs) < 2**-7


def test_layers_beyond_the_deepest_requested_one_do_not_run(pixels):
    class Fuse(kl.Layer):
        def call(self, inputs):
            import tensorflow as tf

            with tf.control_dependencies([tf.debugging.assert_less(inputs, -1e9)]):
                return tf.identity(inputs)

    model = keras.Sequential([kl.Input((SIDE, SIDE, 3)), conv(4, "kept"), Fuse(name="fuse")])
    (ours,) = run(wrap(model), "kept", pixels)
    (theirs,) = predict(model, pixels, model.get_layer("kept").output)
    assert difference(ours, theirs) < TOLERANCE
    with pytest.raises(Exception, match="assert"):
        run(wrap(model), "fuse", pixels)


@pytest.fixture(scope="module")
def deep():
    """Make a network with normalization to fold, and weights that bfloat16 has to round."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            kl.Input((SIDE, SIDE, 3)),
            conv(16, "first"),
            kl.BatchNormalization(name="norm", moving_mean_initializer="ones"),
            kl.ReLU(name="relu"),
            kl.DepthwiseConv2D(3, name="depthwise"),
            conv(16, "last"),
            kl.GlobalAveragePooling2D(name="gap"),
            kl.Dense(8, name="dense"),
        ]
    )
    return wrap(model)


def test_bfloat16_is_near_plain_keras(deep, pixels):
    names = ["relu", "last", "dense"]
    ours = run(deep, names, pixels, preprocess="caffe", precision="bfloat16")
    inputs = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    layers = [deep.model.get_layer(name).output for name in names]
    for mine, theirs in zip(ours, predict(deep.model, inputs, *layers), strict=True):
        assert difference(mine, theirs) < 2**-6


@needs_avx512
def test_bfloat16_rounds_products_but_those_of_pixels_less_a_mean(deep, pixels):
    names = ["first", "last"]
    half = run(deep, names, pixels, preprocess="caffe", precision="bfloat16")
    full = run(deep, names, pixels, preprocess="caffe")
    assert difference(half[0], full[0]) < 1e-6
    assert difference(half[1], full[1]) > 2**-16


def test_pooling_of_half_precision_is_float32(deep, pixels):
    plain, avg = run(deep, ["last", "last:avg"], pixels, precision="bfloat16")
    np.testing.assert_allclose(avg, plain.mean((1, 2)), rtol=1e-4, atol=1e-4 * np.abs(avg).max())


def test_an_unknown_precision_proposes_the_nearest(deep, pixels):
    with pytest.raises(UnknownNameError, match=r"unknown precision 'bfloat'; .*'bfloat16'"):
        run(deep, "last", pixels, precision="bfloat")


@pytest.fixture(scope="module")
def small():
    model = keras.Sequential(
        [kl.Input((SIDE, SIDE, 3)), conv(4, "conv"), kl.GlobalMaxPooling2D(name="vector")]
    )
    return wrap(model)


def test_every_pooling_equals_numpy(small, pixels):
    specs = ["conv", "conv:none", "conv:avg", "conv:max", "conv:flatten", "conv:grid4"]
    plain, avg, top, flat, grid = run(small, specs, pixels)
    assert plain.shape == (len(pixels), 30, 30, 4)
    np.testing.assert_allclose(avg, plain.mean((1, 2)), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(top, plain.max((1, 2)))
    np.testing.assert_array_equal(flat, plain.reshape(len(plain), -1))
    np.testing.assert_allclose(grid, average_cells(plain, 4), rtol=1e-5, atol=1e-4)


def test_the_mirror_image_is_the_image_mirrored(small, pixels):
    (mirrored,) = run(small, "conv", pixels, view="hflip")
    np.testing.assert_array_equal(mirrored, run(small, "conv", pixels[:, :, ::-1])[0])
    assert not np.array_equal(mirrored, run(small, "conv", pixels)[0])


def test_outputs_of_one_batch_stay_when_the_next_one_runs(small, pixels):
    spec = ProgramSpec(layers=(LayerSpec("conv"), LayerSpec("vector")), preprocess="none")
    program = TensorFlowProgram(small, spec)
    first = program(pixels)
    copies = [output.copy() for output in first]
    program(255 - pixels)
    for output, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_a_vector_cannot_be_pooled_over_space(small, pixels):
    with pytest.raises(StageError, match=r"'vector' has no height and width .* without ':avg'"):
        run(small, "vector:avg", pixels)
    (flat,) = run(small, "vector:flatten", pixels)
    np.testing.assert_array_equal(flat, run(small, "vector", pixels)[0])


def test_an_unknown_view_proposes_the_nearest(small, pixels):
    with pytest.raises(UnknownNameError, match="unknown view 'hflop'; did you mean 'hflip'"):
        run(small, "conv", pixels, view="hflop")


def test_a_program_runs_on_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def configure(precision: str) -> Any:
        config = configure_session(precision)
        config.device_count["CPU"] = 2  # They stand for two GPUs.
        return config

    monkeypatch.setattr("permafrost.stages.engines.tensorflow_engine.configure_session", configure)
    network = KerasNetwork(keras.Sequential([kl.Input((SIDE, SIDE, 3)), kl.Conv2D(4, 3, name="c")]))
    network.size = (SIDE, SIDE)
    spec = ProgramSpec(layers=(LayerSpec("c"),), preprocess="none")
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    programs = [TensorFlowProgram(network, spec, device=f"/CPU:{number}") for number in (0, 1)]
    expected = network.model.predict(pixels.astype(np.float32), verbose=0)
    for program in (*programs, SharedPrograms(programs)):
        np.testing.assert_allclose(program(pixels)[0], expected, atol=1e-5 * expected.max())
    traced = trace_program(
        *(network, spec), hold=tf.constant, shortcuts=NO_SHORTCUTS, device="/CPU:1"
    )
    assert {op.device for op in traced.graph.get_operations()} == {"/device:CPU:1"}


@pytest.mark.parametrize("program", [TensorFlowProgram, KerasProgram])
def test_convolutions_of_channels_first_run_as_in_keras_or_are_refused_in_one_line(
    program: Any,
) -> None:
    """GPUs can, and so can some processors through oneDNN."""
    image = keras.Input((8, 8, 3))
    moved = keras.layers.Permute((3, 1, 2))(image)
    last = keras.layers.Conv2D(2, 3, data_format="channels_first", name="last")(moved)
    network = KerasNetwork(keras.Model(image, last))
    network.size = (8, 8)
    spec = ProgramSpec(layers=(LayerSpec("last"),), preprocess="none")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    try:
        expected = network.model.predict_on_batch(pixels.astype(np.float32))
    except tf.errors.OpError:
        with pytest.raises(
            InputError, match=r"NCHW; build .* data_format='channels_last'"
        ) as caught:
            program(network, spec)(pixels)
        assert "File" not in str(caught.value)
    else:
        (found,) = program(network, spec)(pixels)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
