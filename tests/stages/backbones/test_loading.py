"""Backbones: the same names and digests everywhere; weights and model files that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import BackboneCard, LayerSpec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import InputError, UnknownNameError, WeightsError
from tests.helpers import ROOT

SIDE = 32
MOBILENET = "mobilenet(alpha=0.25,classes=7)"


def load(name, *, weights="random", size=(SIDE, SIDE), with_top=False):
    request = BackboneRequest(backbone=parse_backbone(str(name)), weights=str(weights), size=size)
    return load_backbone(request, with_top=with_top)


def load_file(file, size=None):
    return load(file, size=size, weights="imagenet")


def digests_of(network):
    return {name: card.digest for name, card in network.describe().layers.items()}


def build_model(**options):
    keras.utils.set_random_seed(0)
    keras.utils.clear_session()
    return keras.Sequential(
        [
            kl.Input((SIDE, SIDE, 3)),
            kl.Conv2D(4, 3, activation="relu", name="first"),
            kl.BatchNormalization(name="norm"),
            kl.Conv2D(4, 3, name="second", **options),
            kl.GlobalAveragePooling2D(name="gap"),
        ],
        name="mine",
    )


def save(model, file):
    model.save(file)
    return file


def digests_after(change, folder):
    model = build_model()
    change(model)
    return digests_of(load_file(save(model, folder / "changed.keras")))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return save(build_model(), tmp_path_factory.mktemp("model") / "mine.keras")


@pytest.fixture(scope="module")
def digests(model_file):
    return digests_of(load_file(model_file))


@pytest.fixture(scope="module")
def network():
    return load(MOBILENET)


# Names and digests


def run_fresh(code, **options):
    """Run code in a process of its own, and return the lines it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, **options)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_names_and_digests_are_the_same_in_every_process_whatever_it_built_before():
    lines = run_fresh(f"""
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone  # noqa: E402
for name, size in [({MOBILENET!r}, 32), ("mobilenet_v3_small", 32)]:
    backbone = parse_backbone(name)
    request = BackboneRequest(backbone=backbone, weights="random", size=(size, size))
    print(load_backbone(request).describe().to_json())
""")
    _ = kl.Conv2D(3, 3), kl.BatchNormalization(), kl.ReLU(), build_model()
    numbered = load("mobilenet_v3_small").describe()
    mobilenet = load(MOBILENET).describe()
    assert [BackboneCard.from_json(line) for line in lines[-2:]] == [mobilenet, numbered]
    assert "activation_17" in numbered.layers


def test_a_layer_has_the_same_digest_with_and_without_the_classifier(network):
    with_top = digests_of(load(MOBILENET, with_top=True))
    without = digests_of(network)
    assert set(with_top) > set(without)
    assert {name: with_top[name] for name in without} == without
    assert len(set(without.values())) == len(without)


def test_digests_do_not_depend_on_the_input_size(network):
    assert digests_of(load(MOBILENET, size=(64, 64))) == digests_of(network)


def test_digests_do_not_depend_on_the_file_or_what_only_training_needs(digests, tmp_path):
    model = build_model(kernel_regularizer="l2", kernel_constraint="unit_norm")
    model.compile("adam", "mse")
    model.trainable = False
    assert digests_of(load_file(save(model, tmp_path / "other.h5"))) == digests


def test_a_changed_weight_changes_the_digests_from_its_layer_on(digests, tmp_path):
    def nudge(model):
        kernel = model.get_layer("second").kernel
        value = kernel.numpy()
        value[0, 0, 0, 0] = np.nextafter(value[0, 0, 0, 0], 1)
        kernel.assign(value)

    changed = digests_after(nudge, tmp_path)
    same = [name for name in digests if changed[name] == digests[name]]
    assert same == ["first", "norm"]


def test_changed_statistics_of_batch_normalization_change_the_digest(digests, tmp_path):
    changed = digests_after(
        lambda model: model.get_layer("norm").moving_mean.assign([0, 0, 0, 1e-6]), tmp_path
    )
    assert [name for name in digests if changed[name] == digests[name]] == ["first"]


@pytest.mark.parametrize("options", [{"padding": "same"}, {"strides": 2}, {"activation": "relu"}])
def test_a_changed_option_changes_the_digest(options, digests, tmp_path):
    changed = digests_of(load_file(save(build_model(**options), tmp_path / "changed.keras")))
    assert [name for name in digests if changed[name] == digests[name]] == ["first", "norm"]


def test_two_target_shapes_are_two_digests(tmp_path):
    def describe(shape):
        model = keras.Sequential([kl.Input((4, 4, 3)), kl.Reshape(shape, name="reshape")])
        return load_file(save(model, tmp_path / "reshape.keras")).describe().layers["reshape"]

    tall, wide = describe((8, 2, 3)), describe((2, 8, 3))
    assert (tall.shape, wide.shape) == ((8, 2, 3), (2, 8, 3))
    assert tall.digest != wide.digest


# Cards


def test_a_card_tells_the_shapes_that_keras_tells(network):
    card = network.describe()
    assert (card.name, card.size, card.channels) == (network.model.name, (SIDE, SIDE), 3)
    expected = {
        layer.name: layer.output.shape[1:]
        for layer in network.model.layers
        if not isinstance(layer, kl.InputLayer)
    }
    assert {name: layer.shape for name, layer in card.layers.items()} == expected


def test_a_card_survives_json(network):
    card = network.describe()
    assert BackboneCard.from_json(card.to_json()) == card


def test_an_unknown_layer_proposes_the_nearest(network):
    message = r"unknown layer 'conv_pw_13_rule' of mobilenet_0.25_32.*'conv_pw_13_relu'.*run.py"
    with pytest.raises(UnknownNameError, match=message):
        network.describe().find_layer("conv_pw_13_rule")


# Weights


@pytest.fixture(scope="module")
def weights_files(tmp_path_factory):
    """Weights of MobileNets with and without classifier, all values different from random ones."""
    folder = tmp_path_factory.mktemp("weights")
    for with_top in (True, False):
        model = load(MOBILENET, with_top=with_top).model
        model.set_weights([weight * 0.5 + 0.25 for weight in model.get_weights()])
        model.save_weights(folder / f"{with_top}.weights.h5")
    return folder


@pytest.mark.parametrize("with_top", [True, False])
def test_a_weights_file_gives_its_weights(weights_files, with_top, network):
    loaded = load(MOBILENET, weights=weights_files / f"{with_top}.weights.h5", with_top=with_top)
    random = load(MOBILENET, with_top=with_top).model.get_weights()
    for ours, theirs in zip(loaded.model.get_weights(), random, strict=True):
        np.testing.assert_array_equal(ours, theirs * 0.5 + 0.25)
    assert not set(digests_of(loaded).values()) & set(digests_of(network).values())


def test_weights_of_another_network_do_not_fit(weights_files, tmp_path):
    with pytest.raises(WeightsError, match=r"do not fit mobilenet.* without its classifier"):
        load("mobilenet(alpha=0.5)", weights=weights_files / "False.weights.h5")
    with pytest.raises(WeightsError, match=r"do not fit .* with its classifier"):
        load(MOBILENET, weights=weights_files / "False.weights.h5", with_top=True)
    garbage = tmp_path / "garbage.weights.h5"
    garbage.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="do not fit"):
        load(MOBILENET, weights=garbage)
    with pytest.raises(WeightsError, match="there is no weights file 'missing'"):
        load(MOBILENET, weights="missing")


def test_weights_with_a_classifier_also_serve_the_network_without(weights_files):
    with_top = load(MOBILENET, weights=weights_files / "True.weights.h5")
    without = load(MOBILENET, weights=weights_files / "False.weights.h5")
    assert digests_of(with_top) == digests_of(without)


def test_imagenet_weights_that_cannot_be_had_are_named_with_their_folder(tmp_path):
    # The home is read when Keras is imported, and the way out is closed: a fresh process.
    code = """
import socket
def refuse(*_, **__): raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone  # noqa: E402
from permafrost.stages.errors import WeightsError
try:
    load_backbone(BackboneRequest(backbone=parse_backbone("mobilenet(alpha=0.25)")))
except WeightsError as error:
    print(error)
"""
    said = run_fresh(code, env={"PATH": "", "KERAS_HOME": str(tmp_path)})[-1]
    assert "mobilenet_2_5_224_tf_no_top.h5" in said
    assert said.endswith(f"put it into {tmp_path / 'models'}/")


@pytest.mark.parametrize(
    ("name", "size"),
    [("inception_v3", (40, 40)), ("mobilenet(alpha='x')", None), ("vgg16(colour=1)", None)],
)
def test_sizes_and_options_that_keras_refuses_are_input_errors(name, size):
    with pytest.raises(InputError, match=name.split("(")[0]):
        load(name, size=size)


# Model files


def write_garbage(file):
    file.write_bytes(b"not a model at all")


def write_nothing(file):
    file.touch()


def write_other_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no model")


def write_cut_model(file):
    build_model().save(file)
    file.write_bytes(file.read_bytes()[:-3000])


def write_other_hdf5(file):
    with h5py.File(file, "w") as hdf5:
        hdf5["data"] = np.zeros(3)


def write_weights_only(file):
    model = build_model()
    model.save_weights(file.with_suffix(".weights.h5"))
    file.with_suffix(".weights.h5").rename(file)


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        (write_garbage, ".keras"),
        (write_garbage, ".h5"),
        (write_nothing, ".keras"),
        (write_nothing, ".h5"),
        (write_other_zip, ".keras"),
        (write_cut_model, ".keras"),
        (write_cut_model, ".h5"),
        (write_other_hdf5, ".h5"),
        (write_weights_only, ".h5"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_one_line(write, suffix, tmp_path):
    file = tmp_path / f"bad{suffix}"
    write(file)
    with pytest.raises(WeightsError, match="cannot be loaded as a Keras model: ") as caught:
        load_file(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_is_refused_and_never_run(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, evidence = tmp_path / f"lambda{suffix}", tmp_path / "it-ran"
    layer = kl.Lambda(
        lambda x: [__import__("pathlib").Path("it-ran").touch(), x][1],
        output_shape=(SIDE, SIDE, 3),
    )
    save(keras.Sequential([kl.Input((SIDE, SIDE, 3)), layer]), file)
    # The file is a real danger: who trusts it, runs it.
    model = keras.models.load_model(file, compile=False, safe_mode=False)
    model(np.zeros((1, SIDE, SIDE, 3)))
    assert evidence.exists()
    evidence.unlink()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_file(file)
    assert not evidence.exists()


def test_a_model_whose_config_names_a_python_function_is_refused(model_file, tmp_path):
    evil = tmp_path / "evil.keras"
    with zipfile.ZipFile(model_file) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                layer = config["config"]["layers"][1]
                layer.update(module="os", class_name="system", config={"command": "true"})
                content = json.dumps(config).encode()
            new.writestr(name, content)
    with pytest.raises(WeightsError, match="cannot be loaded as a Keras model"):
        load_file(evil)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_file_gives_the_features_of_its_model(suffix, tmp_path):
    model = build_model()
    network = load_file(save(model, tmp_path / f"mine{suffix}"))
    batch = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    (ours,) = TensorFlowProgram(
        network, ProgramSpec(layers=(LayerSpec("gap"),), preprocess="none")
    )(batch)
    expected = model.predict(batch.astype(np.float32), verbose=0)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_model_of_any_size_takes_the_size_asked_for(tmp_path):
    file = tmp_path / "any.keras"
    save(keras.Sequential([kl.Input((None, None, 3)), kl.Conv2D(2, 3, name="conv")]), file)
    with pytest.raises(InputError, match="images of any size; say which with --size"):
        load_file(file)
    card = load_file(file, size=(20, 30)).describe()
    assert (card.size, card.layers["conv"].shape) == ((20, 30), (18, 28, 2))


def test_a_model_of_one_size_takes_no_other(model_file):
    assert load_file(model_file, size=(SIDE, SIDE)).size == (SIDE, SIDE)
    with pytest.raises(InputError, match="takes 32x32; drop --size"):
        load_file(model_file, size=(64, 64))


@pytest.mark.parametrize("shape", [(10,), (8, 8, 65), (8, 8, None), (4, 8, 8, 3)])
def test_a_model_of_something_else_than_images_is_refused(shape, tmp_path):
    file = save(keras.Sequential([kl.Input(shape), kl.ReLU()]), tmp_path / "other.keras")
    with pytest.raises(InputError, match="not one image of 1 to 64 channels"):
        load_file(file)


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_of_two_images_or_of_none_is_refused(tmp_path):
    first, second = kl.Input((8, 8, 3)), kl.Input((8, 8, 3))
    two = keras.Model([first, second], kl.Add()([first, second]))
    never_built = keras.Sequential([kl.Conv2D(2, 3)])
    for model in (two, never_built):
        with pytest.raises(InputError, match="not one image"):
            load_file(save(model, tmp_path / "model.keras"))


def test_images_that_are_too_small_for_a_model_of_any_size_are_refused(tmp_path):
    images = keras.Input((None, None, 3))
    keras.Model(images, keras.layers.MaxPooling2D(4)(images)).save(tmp_path / "any.keras")
    with pytest.raises(InputError, match=r"cannot be run on images of 2x2x3: .* another --size"):
        load_file(tmp_path / "any.keras", size=(2, 2)).describe()


def test_a_model_that_keras_itself_cannot_run_is_refused_in_one_line(tmp_path):
    images = keras.Input((8, 8, 3), dtype="uint8")
    keras.Model(images, keras.layers.Conv2D(2, 3)(images)).save(tmp_path / "bytes.keras")
    with pytest.raises(InputError, match=r"cannot be run on images of 8x8x3: .*uint8") as caught:
        load_file(tmp_path / "bytes.keras").describe()
    assert "\n" not in str(caught.value)
