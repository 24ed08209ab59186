"""Model files from anyone: what a backbone may be made of, and that nothing else is looked at."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from keras import layers as kl

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.engines.keras_engine import KerasProgram
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.errors import WeightsError
from permafrost.stages.frameworks.model_file import check_model
from permafrost.stages.frameworks.weights_file import check_weights
from tests.helpers import hostile
from tests.helpers.hostile import EVIDENCE, MODEL_FILES, SIDE


def load(name, *, weights="imagenet"):
    request = BackboneRequest(backbone=parse_backbone(str(name)), weights=str(weights))
    return load_backbone(request)


@pytest.mark.parametrize("what", MODEL_FILES)
def test_a_hostile_model_file_is_refused_in_one_line_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = MODEL_FILES[what](tmp_path)
    # Whatever the installed Keras would do: the next one may do otherwise.
    with pytest.raises((WeightsError, RecursionError)):
        check_model(file)
    with pytest.raises(WeightsError, match="cannot be loaded as a Keras model: ") as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert not list(tmp_path.rglob(EVIDENCE))


def test_a_model_of_a_class_of_its_own_says_what_to_do(tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Double(kl.Layer):
        def call(self, inputs):
            return inputs * 2

    file = tmp_path / "mine.keras"
    keras.Sequential([kl.Input((SIDE, SIDE, 3)), Double()]).save(file)
    with pytest.raises(WeightsError, match=r"made of '.*mine>Double'.*model\.export\('folder'\)"):
        load(file)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_people_do_build_of_keras_layers_is_taken(suffix, tmp_path):
    inner = keras.Sequential(
        [
            kl.Input((SIDE, SIDE, 3)),
            kl.Rescaling(1 / 255),
            kl.RandomFlip(),
            kl.Conv2D(2, 3, activation=keras.activations.gelu, kernel_regularizer="l2"),
            kl.BatchNormalization(),
            kl.SpectralNormalization(kl.Conv2D(2, 2, kernel_constraint="max_norm")),
        ],
        name="inner",
    )
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    inner.compile(keras.optimizers.Adam(schedule), keras.losses.Huber(), metrics=["mae"])
    images = kl.Input((SIDE, SIDE, 3))
    x = kl.Activation(keras.activations.relu6)(inner(images))
    if suffix == ".keras":  # HDF5 has no operations.
        x = keras.ops.mean(keras.ops.relu(x * 2.0 + 1.0)[:, :2], axis=(1, 2))
    model = keras.Model(images, x)
    model.compile("sgd", "mse")
    model.save(tmp_path / f"model{suffix}")
    assert load(tmp_path / f"model{suffix}").model.name == model.name


def test_a_model_in_bfloat16_is_taken(tmp_path):
    layer = kl.Conv2D(2, 3, dtype="mixed_bfloat16")
    keras.Sequential([kl.Input((SIDE, SIDE, 3)), layer]).save(tmp_path / "half.keras")
    check_model(tmp_path / "half.keras")


def test_the_size_of_every_layer_is_known_before_any_is_built(tmp_path, monkeypatch):
    file = tmp_path / "large.keras"
    keras.Sequential([kl.Input((SIDE, SIDE, 3)), kl.Conv2D(8, 7), kl.Dense(500)]).save(file)
    taken = []
    monkeypatch.setattr(kl.Layer, "add_weight", _count(kl.Layer.add_weight, taken))
    check_model(file)
    assert all(variable._value is None for variable in taken)
    assert len(taken) == 4


def _count(add_weight, taken):
    def counting(*args, **kwargs):
        taken.append(add_weight(*args, **kwargs))
        return taken[-1]

    return counting


def test_an_archive_that_was_compressed_again_is_taken(tmp_path):
    file = tmp_path / "model.keras"
    hostile.build_plain().save(file)
    again = tmp_path / "again.keras"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert load(again).model.name == "plain"


# Weights files


@pytest.mark.parametrize("what", hostile.STRANGE_WEIGHTS)
def test_a_hostile_weights_file_is_refused(what, tmp_path):
    application = "mobilenet(alpha=0.25)"
    request = BackboneRequest(backbone=parse_backbone(application), weights="random", size=(32, 32))
    file = tmp_path / "evil.weights.h5"
    load_backbone(request).model.save_weights(file)
    check_weights(file)
    hostile.spoil_weights(file, hostile.STRANGE_WEIGHTS[what])
    with pytest.raises(WeightsError, match=r"evil\.weights\.h5' are refused: "):
        load(application, weights=file)


def test_weights_in_several_files_are_refused(tmp_path):
    sharded = tmp_path / "evil.weights.json"
    sharded.write_text('{"metadata": {}, "weight_map": {"a": ["../../etc/passwd"]}}')
    with pytest.raises(WeightsError, match=r"are refused: its name does not end in \.h5"):
        load("mobilenet(alpha=0.25)", weights=sharded)


def test_hard_links_in_a_circle_do_not_keep_the_check_busy(tmp_path):
    import h5py

    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file["deep"] = file.create_group("group")
        file["group/up"] = file["/"]
    check_weights(tmp_path / "circle.h5")


# Layers and names


@pytest.mark.parametrize(
    "layer",
    [
        kl.LSTM(3, return_sequences=True),
        kl.Bidirectional(kl.GRU(3)),
        kl.RNN([kl.LSTMCell(3), kl.SimpleRNNCell(2)]),
        kl.TimeDistributed(kl.Dense(2)),
    ],
)
def test_recurrent_layers_are_taken_and_give_keras_numbers(layer, tmp_path):
    file = tmp_path / "recurrent.keras"
    keras.utils.set_random_seed(0)
    steps = [kl.Rescaling(1 / 255), kl.Reshape((SIDE, 3 * SIDE)), kl.Masking()]
    model = keras.Sequential([kl.Input((SIDE, SIDE, 3)), *steps, layer])
    model.save(file)
    batch = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    specs = (LayerSpec(layer.name),)
    (found,) = TensorFlowProgram(load(file), ProgramSpec(layers=specs, preprocess="none"))(batch)
    expected = model.predict(batch.astype(np.float32), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_layer_that_remembers_the_images_before_is_refused(tmp_path):
    file = tmp_path / "stateful.keras"
    image = kl.Input((SIDE, SIDE, 3), batch_size=1)
    steps = [image, kl.Reshape((SIDE, 3 * SIDE)), kl.GRU(3, stateful=True, name="gru")]
    keras.Sequential(steps).save(file)
    with pytest.raises(WeightsError, match="'gru' is stateful"):
        load(file)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_names_of_layers_that_are_no_scopes_of_tensorflow_are_changed(suffix, tmp_path):
    file = tmp_path / f"names{suffix}"
    keras.utils.set_random_seed(0)
    names = ["_conv", "my conv", "my_conv", "conv:avg", "gr\u00f6\u00dfe,b", ".dot", "-dash"]
    inner = keras.Sequential([kl.Input((SIDE, SIDE, 2)), kl.ReLU(name="_a b")], name="in ner")
    layers = [kl.Conv2D(2, 1, name=name) for name in names]
    model = keras.Sequential([kl.Input((SIDE, SIDE, 3)), *layers, inner])
    model.save(file)
    network = load(file)
    card = network.describe()
    assert list(card.layers) == [
        *("layer_conv", "my_conv_2", "my_conv", "conv_avg", "gr__e_b", ".dot", "layer-dash"),
        *("in_ner", "in_ner/_a_b"),
    ]
    batch = np.full((2, SIDE, SIDE, 3), 7, np.uint8)
    specs = (LayerSpec("in_ner/_a_b"),)
    # Keras itself cannot predict with such names.
    expected = model(batch.astype(np.float32)).numpy()
    for program in (TensorFlowProgram, KerasProgram):
        (found,) = program(network, ProgramSpec(layers=specs, preprocess="none"))(batch)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".keras", b"\x89HDF\r\n\x1a\n", "it is an HDF5 file; rename it to model.h5"),
        (".h5", b"PK\x03\x04", "it is a zip archive; rename it to model.keras"),
        (".h5", b"", "the file is empty"),
        (".keras", b"", "the file is empty"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_is_refused_with_the_right_name(
    suffix, content, message, tmp_path
):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load(file)
