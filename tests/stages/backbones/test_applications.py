"""The table of applications is compared with Keras itself."""

from __future__ import annotations

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import imagenet_utils

from permafrost.stages.backbones.applications import (
    APPLICATIONS,
    BackboneName,
    family_preprocess,
    parse_backbone,
)
from permafrost.stages.backbones.preprocessing import preprocess
from permafrost.stages.errors import InputError, UnknownNameError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
EVERY = pytest.mark.parametrize("name", APPLICATIONS)


class SizeAskedError(Exception):
    """Raised in place of building: a function has said its default size."""


def run_in_graph(mode, pixels=PIXELS):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(preprocess(tf.constant(pixels), mode=mode, view="identity"))


def ask_default_size(function, monkeypatch):
    def stop(*_, default_size, **__):
        raise SizeAskedError(default_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", stop)
    try:
        function(weights=None)
    except SizeAskedError as asked:
        return asked.args[0]
    # The MobileNetV3 never ask: they take any size, and their documentation says the default.
    return int(re.search(r"\((\d+), \1, 3\)", function.__doc__)[1])


def test_the_table_names_every_function_of_keras_applications_once():
    functions = [entry.function for entry in APPLICATIONS.values()]
    public = [name for name in dir(keras.applications) if name[0].isupper()]
    assert sorted(functions) == sorted(public)


@EVERY
def test_default_size_is_the_one_of_keras(name, monkeypatch):
    entry = APPLICATIONS[name]
    function = getattr(keras.applications, entry.function)
    assert ask_default_size(function, monkeypatch) == entry.size


@EVERY
def test_preprocessing_is_the_one_of_the_family(name):
    entry = APPLICATIONS[name]
    module = inspect.getmodule(getattr(keras.applications, entry.function))
    expected = module.preprocess_input(PIXELS.astype(np.float32))
    np.testing.assert_allclose(run_in_graph(entry.preprocess), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_grey_pixels_cannot_be_standardised_by_colour(mode):
    with pytest.raises(InputError, match="needs 3 channels; use tf or none"):
        run_in_graph(mode, PIXELS[..., :1])


def test_an_unknown_preprocessing_proposes_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'caffe'"):
        run_in_graph("cafe")


@EVERY
def test_an_application_is_found_as_keras_and_as_people_write_it(name):
    expected = BackboneName(name=name)
    assert parse_backbone(name) == expected
    assert parse_backbone(APPLICATIONS[name].function) == expected
    assert parse_backbone(f" {name.replace('_', '-').upper()} ") == expected


def test_options_are_the_same_in_any_order_and_survive_being_written():
    name = parse_backbone("mobilenet( depth_multiplier = 2, alpha=0.25 )")
    assert name.options == (("alpha", 0.25), ("depth_multiplier", 2))
    assert parse_backbone(str(name)) == name
    assert str(parse_backbone("VGG16")) == "vgg16"


@pytest.mark.parametrize(
    "text",
    [
        "mobilenet(0.25)",
        "mobilenet(alpha=)",
        "mobilenet(alpha=open('x'))",
        "vgg16(**{})",
        "vgg16(a=1)(b=2)",
        "vgg16(a=1)+(2)",
    ],
)
def test_options_that_are_no_literals_are_refused(text):
    with pytest.raises(InputError, match="write them as"):
        parse_backbone(text)


def test_an_unknown_backbone_proposes_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'vgg61'.*'vgg16'"):
        parse_backbone("vgg61")


@pytest.mark.parametrize("text", ["missing.keras", "missing.h5", "folder/missing"])
def test_a_missing_model_file_is_said_to_be_missing(text):
    with pytest.raises(InputError, match=f"there is no model file '{text}'"):
        parse_backbone(text)


def test_a_model_file_is_a_path_and_no_application(tmp_path):
    (tmp_path / "Mine.KERAS").touch()
    name = parse_backbone(str(tmp_path / "Mine.KERAS"))
    assert name.is_saved
    assert not parse_backbone("vgg16").is_saved


def test_a_folder_called_like_an_application_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "VGG16").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_backbone("VGG16") == BackboneName(name="vgg16")
    assert parse_backbone("./VGG16").is_saved


@pytest.mark.parametrize(
    ("model_name", "mode"),
    [
        ("mobilenet_1.00_224", "tf"),
        ("mobilenet_1_0_224_conv_dw_13", "tf"),
        ("MobileNetV3Small", "none"),
        ("resnet50", "caffe"),
        ("resnet50v2", "tf"),
        ("NASNet", "tf"),
        ("efficientnetb0", "none"),
        ("efficientnetv2-b0", "none"),
        ("densenet121", "torch"),
        ("my_model", None),
        ("my_vgg16", None),
    ],
)
def test_a_model_name_tells_its_family(model_name, mode):
    assert family_preprocess(model_name) == mode


@EVERY
def test_keras_own_model_names_tell_the_preprocessing_of_their_family(name):
    function = getattr(keras.applications, APPLICATIONS[name].function)
    own = inspect.signature(function).parameters["name"].default
    if own is not None:  # MobileNet's and NASNet's are made of their options.
        assert family_preprocess(own) == APPLICATIONS[name].preprocess
