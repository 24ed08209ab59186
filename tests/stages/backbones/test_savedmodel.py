"""SavedModel folders: equal to the Keras model they were exported from, and never run as code."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from permafrost.stages.backbones.applications import family_preprocess, parse_backbone
from permafrost.stages.backbones.layers import LayerSpec, parse_layer_specs
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.engines.program import ProgramSpec, Work
from permafrost.stages.engines.registry import BUILDERS
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import InputError, WeightsError

TOLERANCE = 1e-4
SIDE = 32


def load(folder, *, size=None):
    return load_backbone(BackboneRequest(backbone=parse_backbone(str(folder)), size=size))


def digests_of(folder, **options):
    return {name: card.digest for name, card in load(folder, **options).describe().layers.items()}


def run(network, specs, batch, *, preprocess="none"):
    return TensorFlowProgram(
        network, ProgramSpec(layers=tuple(parse_layer_specs(specs)), preprocess=preprocess)
    )(batch)


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def build_model():
    keras.utils.set_random_seed(0)
    images = kl.Input((SIDE, SIDE, 3))
    x = kl.Conv2D(4, 3, activation="relu", bias_initializer="uniform", name="conv_1")(images)
    x = kl.Conv2D(5, 3, bias_initializer="uniform", name="second")(x)
    inner = keras.Sequential(
        [
            kl.Input((28, 28, 5)),
            kl.BatchNormalization(moving_mean_initializer="ones", name="norm"),
            kl.Dropout(0.5),
            kl.MaxPooling2D(name="pool"),
        ],
        name="inner",
    )
    outputs = kl.Dense(3, name="head")(kl.Flatten(name="flat")(inner(x)))
    return keras.Model(images, outputs, name="mobilenet_like")


def export(model, folder):
    model.export(folder, verbose=False)
    return folder


def save_signature(folder, function, shape=(None, SIDE, SIDE, 3), dtype=tf.float32, **attributes):
    """Write a SavedModel whose signature is a function of TensorFlow, as Keras 2 did."""
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    signature = tf.function(function).get_concrete_function(tf.TensorSpec(shape, dtype))
    tf.saved_model.save(module, folder, signatures={"serving_default": signature})
    return folder


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (33, SIDE, SIDE, 3), dtype=np.uint8)


def test_every_layer_of_an_exported_model_equals_plain_keras(model, folder, pixels):
    network = load(folder)
    inner = model.get_layer("inner")
    second = model.get_layer("second").output
    outer = {name: model.get_layer(name).output for name in ("conv_1", "second", "flat", "head")}
    images = pixels.astype(np.float32)
    theirs = keras.Model(model.input, outer).predict(images, verbose=0)
    norm = keras.Model(inner.inputs, inner.get_layer("norm").output)
    features = keras.Model(model.input, second).predict(images, verbose=0)
    theirs["inner/norm"] = norm.predict(features, verbose=0)
    theirs["inner"] = theirs["inner/pool"] = inner.predict(features, verbose=0)
    assert min(np.ptp(features, axis=0).max() for features in theirs.values()) > 0.01
    for batch_size in (1, 7, 32):
        ours = run(network, list(theirs), pixels[:batch_size])
        for name, features in zip(theirs, ours, strict=True):
            assert difference(features, theirs[name][:batch_size]) < TOLERANCE


def test_a_graph_that_exists_already_is_run_in_one_way(folder, pixels):
    network = load(folder)
    layers = (LayerSpec(list(network.describe().layers)[-1]),)
    verdicts = []
    program = BUILDERS["tensorflow"](
        lambda: network,
        ProgramSpec(layers=layers, preprocess="none"),
        Work(batch_size=len(pixels), n_images=10**9, note=verdicts.append),
    )
    for _ in range(5):
        program(pixels)
    (verdict,) = verdicts
    assert list(verdict.images_per_second) == ["plain"]


def test_a_card_lists_the_layers_as_keras_names_them(model, folder):
    card = load(folder).describe()
    expected = {layer.name: layer.output.shape[1:] for layer in model.layers[1:]}
    inner = model.get_layer("inner")
    expected |= {"inner/norm": (28, 28, 5), "inner/pool": inner.output.shape[1:]}
    expected["output_0"] = model.output.shape[1:]
    assert {name: layer.shape for name, layer in card.layers.items()} == expected
    assert (card.size, card.channels) == ((SIDE, SIDE), 3)
    assert card.name == model.name
    assert family_preprocess(card.name) == "tf"


def test_an_exported_mobilenet_equals_plain_keras(tmp_path, pixels):
    keras.utils.set_random_seed(0)
    mobilenet = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, input_shape=(96, 96, 3)
    )
    network = load(export(mobilenet, tmp_path / "mobilenet"))
    assert network.describe().name == mobilenet.name
    layers = [layer.name for layer in mobilenet.layers[1:]]
    assert [name for name in network.describe().layers if name != "output_0"] == layers
    batch = np.kron(pixels[:5], np.ones((1, 3, 3, 1), np.uint8))
    names = ["conv1_relu", "conv_pw_5_relu"]
    ours = run(network, names, batch, preprocess="tf")
    reference = keras.Model(mobilenet.input, [mobilenet.get_layer(name).output for name in names])
    inputs = keras.applications.mobilenet.preprocess_input(batch.astype(np.float32))
    for mine, theirs in zip(ours, reference.predict(inputs, verbose=0), strict=True):
        assert difference(mine, theirs) < TOLERANCE


def test_an_exported_model_of_any_size_takes_the_size_asked_for(tmp_path, pixels):
    model = keras.Sequential([kl.Input((None, None, 3)), kl.Conv2D(2, 3, name="conv")])
    network = load(export(model, tmp_path / "any"), size=(SIDE, SIDE))
    assert network.describe().layers["conv"].shape == (30, 30, 2)
    theirs = model.predict(pixels.astype(np.float32), verbose=0)
    assert difference(run(network, "conv", pixels)[0], theirs) < TOLERANCE
    with pytest.raises(InputError, match="say which with --size"):
        load(tmp_path / "any")


def test_any_function_of_images_is_a_backbone_with_its_output_as_a_layer(tmp_path, pixels):
    scale = tf.Variable([1.0, 2.0, 3.0])
    folder = save_signature(
        tmp_path / "plain", lambda x: {"mean": tf.reduce_mean(x * scale, [1, 2])}, scale=scale
    )
    (ours,) = run(load(folder), "mean", pixels)
    np.testing.assert_allclose(ours, pixels.mean((1, 2)) * [1, 2, 3], rtol=1e-5)


# Digests


def test_digests_are_of_what_is_computed_not_of_the_files(folder, tmp_path):
    again = digests_of(export(build_model(), tmp_path / "again"))
    copied = digests_of(shutil.copytree(folder, tmp_path / "copied"))
    assert again == copied == digests_of(folder)
    assert again["inner"] == again.pop("inner/pool")
    assert len(set(again.values())) == len(again)


def test_a_layer_has_the_same_digest_with_and_without_what_follows(model, folder, tmp_path):
    cut = keras.Model(model.input, model.get_layer("second").output, name="cut")
    digests = digests_of(folder)
    shorter = digests_of(export(cut, tmp_path / "cut"))
    assert {name: digests[name] for name in ("conv_1", "second")} == {
        name: shorter[name] for name in ("conv_1", "second")
    }


def test_a_changed_weight_changes_the_digests_from_its_layer_on(folder, tmp_path):
    changed = build_model()
    kernel = changed.get_layer("second").kernel
    value = kernel.numpy()
    value[0, 0, 0, 0] = np.nextafter(value[0, 0, 0, 0], 1)
    kernel.assign(value)
    before, after = digests_of(folder), digests_of(export(changed, tmp_path / "changed"))
    assert [name for name in before if before[name] == after[name]] == ["conv_1"]


# Refusals


def refused(folder, message):
    with pytest.raises((WeightsError, InputError), match=message) as caught:
        load(folder)
    said = str(caught.value)
    return "\n" not in said and str(folder) in said


@pytest.mark.parametrize("operation", ["read", "write", "list", "python"])
def test_a_signature_that_reaches_outside_is_refused_and_never_run(operation, tmp_path):
    evidence = tmp_path / "it-ran"

    def reach_out(images):
        name = str(evidence)
        if operation == "read":
            outside = tf.strings.length(tf.io.read_file(name))
        elif operation == "list":
            outside = tf.size(tf.io.matching_files(name))
        elif operation == "python":
            outside = tf.numpy_function(lambda: np.int32(evidence.write_text("")), [], tf.int32)
        else:
            with tf.control_dependencies([tf.io.write_file(name, "")]):
                outside = tf.constant(1)
        return {"out": images + tf.cast(outside, tf.float32)}

    what = {"read": "ReadFile", "list": "MatchingFiles", "write": "WriteFile", "python": "PyFunc"}
    folder = save_signature(tmp_path / "model", reach_out)
    assert refused(folder, f"runs .*{what[operation]}.*save the model as a .keras file")
    assert not evidence.exists()


def test_a_function_inside_a_loop_is_refused_too(tmp_path):
    def loop(images):
        def write(n):
            with tf.control_dependencies([tf.io.write_file(str(tmp_path / "it-ran"), "")]):
                return [n + 1]

        (count,) = tf.while_loop(lambda n: n < 3, write, [tf.size(images)])
        return {"out": images + tf.cast(count, tf.float32)}

    assert refused(save_signature(tmp_path / "model", loop), "runs .*LoopCond")
    assert not (tmp_path / "it-ran").exists()


def test_a_folder_that_brings_a_table_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    lines = tf.lookup.TextFileInitializer(str(words), tf.string, line, tf.int64, number)
    table = tf.lookup.StaticHashTable(lines, -1)
    folder = save_signature(tmp_path / "model", lambda x: {"out": x * 2.0}, table=table)
    monkeypatch.setattr(tf.saved_model, "load", pytest.fail)
    assert refused(folder, "holds asset, resource, which is not loaded")


def test_a_folder_that_is_no_savedmodel_is_refused(folder, tmp_path):
    assert refused(tmp_path, "is no SavedModel folder; name a .keras file")
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    assert refused(tmp_path, "is no SavedModel folder")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert refused(tmp_path, "cannot be loaded as a SavedModel")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    shutil.rmtree(damaged / "variables")
    assert refused(
        damaged, r"cannot be loaded as a SavedModel: .*; save the model as a \.keras file"
    )


def test_a_folder_without_a_signature_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), tmp_path / "none")
    assert refused(tmp_path / "none", "has no signature 'serving_default'")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((None, 10), tf.float32, r"takes float32 \(None, 10\), not a batch of images"),
        ((None, 8, 8, 3), tf.string, "takes string"),
        ((None, 8, 8, 65), tf.float32, "not one image of 1 to 64 channels"),
        ((4, 8, 8, 3), tf.float32, "takes 4 images at a time"),
    ],
)
def test_a_signature_of_something_else_than_images_is_refused(shape, dtype, message, tmp_path):
    folder = save_signature(tmp_path / "model", lambda x: {"out": x + x}, shape, dtype)
    assert refused(folder, message)


def test_layers_whose_shape_tensorflow_loses_are_layers_too(tmp_path):
    keras.utils.set_random_seed(0)
    images = kl.Input((SIDE, SIDE, 3))
    x = kl.Dense(4, name="dense")(kl.Rescaling(1 / 255)(images))
    x = kl.TimeDistributed(kl.Dense(2), name="each")(kl.Reshape((SIDE, 4 * SIDE))(x))
    model = keras.Model(images, x)
    network = load(export(model, tmp_path / "folder"))
    layers = network.describe().layers
    assert {name: layers[name].shape for name in layers if "/" in name} == {}
    assert layers["dense"].shape == (SIDE, SIDE, 4)
    assert layers["output_0"].shape == layers["each"].shape == (SIDE, 2)
    batch = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    average, whole = run(network, "dense:avg,output_0", batch)
    assert average.shape == (3, 4)
    assert difference(whole, model.predict(batch.astype(np.float32), verbose=0)) < TOLERANCE


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16"])
def test_a_signature_of_other_numbers_than_float32_is_given_those(dtype, tmp_path, pixels):
    images = kl.Input((SIDE, SIDE, 3), dtype=dtype)
    model = keras.Model(images, kl.Conv2D(2, 3)(kl.Rescaling(1 / 255)(images)))
    network = load(export(model, tmp_path / "folder"))
    assert network.describe().takes_integers == ("int" in dtype)
    (found,) = run(network, "output_0", pixels)
    assert difference(found, model.predict(pixels.astype(dtype), verbose=0)) < TOLERANCE


def test_images_that_are_too_small_for_a_signature_of_any_size_are_refused(tmp_path):
    images = kl.Input((None, None, 3))
    folder = export(keras.Model(images, kl.MaxPooling2D(4)(images)), tmp_path / "folder")
    with pytest.raises(InputError, match=r"cannot be run on images of 2x2x3: .* another --size"):
        load(folder, size=(2, 2)).describe()
