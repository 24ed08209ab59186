"""What no Keras model can be made of, and names that do not exist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.export.backbone_part import ExportPart
from permafrost.stages.export.classifier import build_classifier, save_classifier
from tests.helpers.exports import build_sequential, fit_real, make_linear, wrap


@pytest.fixture(scope="module")
def part():
    net = wrap(build_sequential(side=40))
    return ExportPart(network=net, layer=parse_layer_spec("first:avg"), preprocess="tf")


@pytest.fixture(scope="module")
def head():
    return make_linear(np.random.default_rng(0).normal(size=(5, 6)))


def test_a_head_of_rows_is_refused_with_those_that_have_weights(part):
    knn = fit_real(np.random.default_rng(0).normal(size=(9, 6)), "knn", "classification")
    with pytest.raises(InputError, match=r"'knn' consists of training rows.*logreg.*mlp"):
        build_classifier([part], knn)


def test_a_head_of_other_features_is_refused(part, head):
    with pytest.raises(InputError, match="fitted on 6 features an image, and first give 486"):
        build_classifier([replace(part, layer=parse_layer_spec("first"))], head)


def test_backbones_of_different_sizes_are_refused(part, head):
    other = replace(part, network=wrap(build_sequential(side=32)))
    with pytest.raises(InputError, match=r"first:avg takes 40x40x3, first:avg takes 32x32x3"):
        build_classifier([part, other], head)


def test_savedmodels_are_refused_with_the_remedy(tmp_path, head):
    build_sequential(side=32).export(tmp_path / "saved", verbose=False)
    backbone = parse_backbone(str(tmp_path / "saved"))
    network = load_backbone(BackboneRequest(backbone=backbone))
    part = ExportPart(network=network, layer=parse_layer_spec("first"), preprocess="tf")
    with pytest.raises(InputError, match=r"SavedModel.*model\.save"):
        build_classifier([part], head)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer": parse_layer_spec("frist")},
            "unknown layer 'frist' of net; did you mean 'first'",
        ),
        ({"preprocess": "cafe"}, "did you mean 'caffe'"),
        ({"view": "hflop"}, "did you mean 'hflip'"),
    ],
)
def test_unknown_names_propose_the_nearest(changes, message, part, head):
    with pytest.raises(UnknownNameError, match=message):
        build_classifier([replace(part, **changes)], head)


def test_grey_backbones_have_no_colours_to_preprocess(part, head):
    grey = replace(part, network=wrap(build_sequential(channels=1, side=40)), preprocess="torch")
    with pytest.raises(InputError, match="'torch' needs 3 channels"):
        build_classifier([grey], head)


def test_a_file_that_is_not_called_keras_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.keras"):
        save_classifier(None, tmp_path / "model.h5", task="regression", classes=[], pixels={})
