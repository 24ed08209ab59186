"""Exported models, loaded by a Python without this project, are compared with engine and head."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from zipfile import ZipFile

import keras
import numpy as np
import pytest
from keras import layers as kl
from scipy.special import softmax
from sklearn.datasets import load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.network import KerasNetwork
from permafrost.stages.backbones.preprocessing import PREPROCESS_MODES
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.tensorflow_engine import Program
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.export.backbone_part import ExportPart
from permafrost.stages.export.classifier import RECORD_NAME, build_classifier, save_classifier
from permafrost.stages.heads import HEADS, LinearForm, fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix
from tests.helpers.inputs import write_model

TOLERANCE = 1e-4
SIDE = 96
# Loads and runs every model of a folder; then says which modules it took.
STRANGER = """
import json, sys
from pathlib import Path
import keras, numpy as np
folder = Path(sys.argv[1])
for file in folder.glob("*.keras"):
    model = keras.saving.load_model(file, safe_mode=True)
    images = np.load(folder / f"{file.stem}.images.npy")
    np.save(folder / f"{file.stem}.outputs.npy", model(images))
print(json.dumps(sorted(sys.modules)))
"""


def crop_photos(side, n_photos, channels=3):
    photos = [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    crops = [photos[n % 2][9 * n : 9 * n + side, 17 * n : 17 * n + side] for n in range(n_photos)]
    return np.ascontiguousarray(np.stack(crops)[..., :channels])


# Networks


def wrap(model, size=None):
    network = KerasNetwork(model)
    network.size = size or network.input_shape[:2]
    return network


def load_mobilenet():
    request = BackboneRequest(
        backbone=parse_backbone("mobilenet(alpha=0.25)"), weights="random", size=(SIDE, SIDE)
    )
    return load_backbone(request)


def build_sequential(channels=3, seed=0, side=SIDE):
    keras.utils.set_random_seed(seed)
    layers = [kl.Conv2D(6, 5, strides=4, activation="relu", name="first"), kl.Conv2D(5, 3)]
    return keras.Sequential([kl.Input((side, side, channels)), *layers], name="net")


def build_nested():
    """Put two models with the same layer names one after the other."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((None, None, channels)) for channels in (3, 4)]
    inner = [
        keras.Model(
            x, kl.Conv2D(8, 3, name="conv")(kl.Conv2D(6, 3, activation="relu", name="a")(x)), name=n
        )
        for x, n in zip(inputs, ("one", "two"), strict=True)
    ]
    image = keras.Input((SIDE, SIDE, 3))
    middle = kl.Conv2D(4, 3, strides=3, name="conv")(inner[0](kl.Rescaling(1 / 255)(image)))
    return keras.Model(image, kl.Conv2D(3, 3, name="end")(inner[1](middle)), name="outer")


def build_shared():
    """Call one layer twice, on the image and on what came of it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3))
    shared = kl.Conv2D(3, 3, name="shared")
    return keras.Model(image, kl.Conv2D(2, 3, name="end")(shared(shared(image))), name="twice")


# Heads


@dataclass(frozen=True)
class LinearHead:
    """A linear form and, by itself, what it says of features."""

    form: LinearForm
    kind: str = "logreg"
    task: str = "classification"

    @property
    def n_features(self):
        return len(self.form.weights)

    def linear_form(self):
        return self.form

    def predict(self, features):
        return softmax(score(self.form, features), axis=1)


def score(form, features):
    return (features.astype(np.float64) - form.mean) / form.std @ form.weights + form.bias


def make_linear(features):
    """Return a head with weights drawn at random, that gives answers between the extremes."""
    rng = np.random.default_rng(0)
    values = features.astype(np.float64)
    # Divided by deviations near 0, the rounding of any two ways to run a network would be all.
    std = np.maximum(values.std(axis=0), values.std(axis=0).max() / 100)
    weights, bias = rng.normal(size=(features.shape[1], 3)), rng.normal(size=3)
    form = make_form(mean=values.mean(axis=0), std=std, weights=weights, bias=bias)
    return LinearHead(replace(form, weights=weights / np.abs(score(form, features)).max()))


def make_form(**arrays):
    return LinearForm(scale="standard", link="softmax", **arrays)


def fit_sklearn(features):
    """Return a real binary regression: two outputs that sum to 1."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.fit(features.astype(np.float64), np.arange(len(features)) % 2)
    scaler, classifier = pipeline[0], pipeline[1]
    form = make_form(
        mean=scaler.mean_,
        std=scaler.scale_,
        weights=np.column_stack([np.zeros(features.shape[1]), classifier.coef_[0]]),
        bias=np.array([0, classifier.intercept_[0]]),
    )
    head = LinearHead(form)
    expected = pipeline.predict_proba(features.astype(np.float64))
    assert np.allclose(head.predict(features), expected, atol=1e-9)
    return head


def fit_real(features, kind, task, **settings):
    """Fit a head of the registry on targets that the pictures say nothing about."""
    numbers = np.random.default_rng(0).integers(0, 3, (len(features), 2))
    values = {
        "classification": np.array(["a", "b", "c"])[numbers[:, 0]],
        "multilabel": numbers > 0,
        "regression": numbers[:, 0] / 3,
    }
    classes = {"classification": ["a", "b", "c"], "multilabel": ["s", "t"], "regression": []}
    return fit_head(
        kind,
        parse_settings(kind, settings),
        ArrayMatrix(features),
        Targets(task=task, values=values[task], classes=np.array(classes[task], np.str_)),
        train=np.arange(len(features)),
        seed=0,
    )


# What is exported


HEAD_CASES = [
    f"{kind} {task} {scale}"
    for kind, scale in zip(
        ["logreg", "linear_svm", "ridge", "nearest_mean", "mlp", "sgd"],
        ["l2", "none", "standard", "standard", "l2", "standard"],
        strict=True,
    )
    for task in HEADS[kind].tasks
]


@dataclass(frozen=True)
class Case:
    """Layers ``spec@mode@view`` of networks, by number, and a head."""

    networks: tuple
    parts: tuple
    head: object = make_linear
    dtype: str = "float32"


def describe_cases(folder):
    file = write_model(folder / "small.keras", size=None)
    small = load_backbone(BackboneRequest(backbone=parse_backbone(str(file)), size=(40, 52)))
    mobilenet, nested, shared = load_mobilenet(), wrap(build_nested()), wrap(build_shared())
    net, other = wrap(build_sequential()), wrap(build_sequential(seed=1))
    pooled = "conv_pw_6_relu:avg"
    cases = {
        f"mobilenet_{mode}": Case((mobilenet,), (f"0 {pooled} {mode} identity",))
        for mode in PREPROCESS_MODES
    }
    for name in HEAD_CASES:
        kind, task, scale = name.split()
        fit = partial(fit_real, kind=kind, task=task, scale=scale)
        cases[name] = Case((net,), ("0 first:avg tf identity",), fit)
    return cases | {
        "sklearn": Case((mobilenet,), (f"0 {pooled} tf identity",), fit_sklearn),
        "float16": Case((mobilenet,), (f"0 {pooled} tf identity",), dtype="float16"),
        "map": Case((mobilenet,), ("0 conv_dw_3_relu torch hflip",)),
        "flatten": Case((mobilenet,), ("0 conv_dw_13:flatten caffe hflip",)),
        "max": Case((mobilenet,), ("0 conv_dw_13:max tf identity",)),
        "any_size": Case((small,), ("0 last none identity",)),
        "grey": Case((wrap(build_sequential(channels=1)),), ("0 first tf hflip",)),
        "nested_inner": Case((nested,), ("0 two/a:avg none identity",)),
        "nested_outer": Case((nested,), ("0 two:avg none identity",)),
        "nested_all": Case(
            (nested,),
            tuple(f"0 {x}:avg tf identity" for x in ("end", "two/conv", "one/a", "conv", "two/a")),
        ),
        "shared": Case((shared,), ("0 shared:avg tf identity",)),
        "views": Case((net,), ("0 first:max tf hflip", "0 first:max tf identity")),
        "two_networks": Case(
            (net, other),
            ("1 first:avg caffe identity", "0 first tf identity", "1 first:max caffe identity"),
        ),
    }


def make_parts(case):
    for text in case.parts:
        number, spec, mode, view = text.split()
        yield ExportPart(
            network=case.networks[int(number)],
            layer=parse_layer_spec(spec),
            preprocess=mode,
            view=view,
            dtype=case.dtype,
        )


def compute_features(parts, images):
    columns = []
    for part in parts:
        spec = ProgramSpec(layers=(part.layer,), preprocess=part.preprocess, view=part.view)
        program = Program(part.network, spec)
        columns.append(program(images)[0].reshape(len(images), -1).astype(part.dtype))
        program.close()
    return np.concatenate(columns, axis=1)


def export(case, folder, name):
    parts = list(make_parts(case))
    height, width = parts[0].network.size
    images = crop_photos(max(height, width), 24, parts[0].network.input_shape[2])
    images = images[:, :height, :width]
    features = compute_features(parts, images)
    head = case.head(features)
    np.save(folder / f"{name}.images.npy", images)
    save_classifier(
        build_classifier(parts, head),
        folder / f"{name}.keras",
        task=head.task,
        classes=["cät", "dog"],
        pixels={"resize": "bilinear"},
    )
    return head.predict(features)


CASES = (
    *(f"mobilenet_{mode}" for mode in PREPROCESS_MODES),
    *HEAD_CASES,
    *("sklearn", "float16", "map", "flatten", "max", "any_size", "grey"),
    *("nested_inner", "nested_outer", "nested_all", "shared", "views", "two_networks"),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export all cases and have a Python that lacks this project run them."""
    folder = tmp_path_factory.mktemp("exported")
    cases = describe_cases(tmp_path_factory.mktemp("backbones"))
    expected = {name: export(cases[name], folder, name) for name in CASES}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, folder],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    return SimpleNamespace(folder=folder, expected=expected, modules=modules)


def test_exported_models_need_nothing_of_this_project(exported):
    ours = {"stages", "pipeline", "cache", "run", "permafrost", "tests"}
    assert "keras" in exported.modules
    assert not ours & {name.partition(".")[0] for name in exported.modules}


@pytest.mark.parametrize("name", CASES)
def test_exported_models_answer_as_engine_and_head_do(name, exported):
    expected = exported.expected[name]
    outputs = np.load(exported.folder / f"{name}.outputs.npy")
    assert outputs.dtype == np.float32
    assert outputs.shape == expected.shape
    # Images that all give about the same would agree with anything.
    assert np.ptp(expected, axis=0).max() > 100 * TOLERANCE
    assert np.abs(outputs - expected).max() < TOLERANCE


def test_exported_files_hold_only_what_leads_to_the_layer(exported):
    model = keras.saving.load_model(exported.folder / "nested_inner.keras")
    backbone = model.get_layer("backbone_1_outer")
    assert [layer.name for layer in backbone.get_layer("two").layers][1:] == ["a"]
    assert "end" not in [layer.name for layer in backbone.layers]
    assert not backbone.trainable_variables


def test_a_backbone_of_two_views_is_stored_once(exported):
    model = keras.saving.load_model(exported.folder / "views.keras")
    kernels = [v for v in model.variables if v.path.endswith("first/kernel")]
    assert len(kernels) == 1


def test_exported_files_name_their_outputs(exported):
    with ZipFile(exported.folder / "sklearn.keras") as archive:
        record = json.loads(archive.read(RECORD_NAME))
    assert record == {
        "task": "classification",
        "classes": ["cät", "dog"],
        "pixels": {"resize": "bilinear"},
    }


# Precision and size


def test_features_with_means_far_above_their_deviations_keep_their_precision():
    net = wrap(build_sequential(side=40))
    weights = net.model.get_layer("first").get_weights()
    net.model.get_layer("first").set_weights([weights[0], weights[1] + 1000])
    part = ExportPart(network=net, layer=parse_layer_spec("first"), preprocess="tf")
    images = crop_photos(40, 12)
    features = compute_features([part], images)
    head = make_linear(features)
    assert (head.form.mean / head.form.std).max() > 1000
    outputs = build_classifier([part], head).predict(images, verbose=0)
    assert np.abs(outputs - head.predict(features)).max() < TOLERANCE / 10


# Errors


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
        ({"view": "vflip"}, "did you mean 'hflip'"),
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
