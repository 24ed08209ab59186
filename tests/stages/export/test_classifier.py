"""Exported models, loaded by a Python without this project, are compared with engine and head."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from zipfile import ZipFile

import keras
import numpy as np
import pytest

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.preprocessing import PREPROCESS_MODES
from permafrost.stages.engines.program import ProgramSpec
from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram
from permafrost.stages.export.backbone_part import ExportPart
from permafrost.stages.export.classifier import RECORD_NAME, build_classifier, save_classifier
from permafrost.stages.heads import HEADS
from tests.helpers.exports import (
    build_nested,
    build_sequential,
    build_shared,
    crop_photos,
    fit_real,
    fit_sklearn,
    load_mobilenet,
    make_linear,
    wrap,
)
from tests.helpers.inputs import write_model

TOLERANCE = 1e-4
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
        "figures": Case((net,), ("0 first:avg mean=120,110.5,99,std=60,58,57.5 identity",)),
        "grey_figures": Case(
            (wrap(build_sequential(channels=1)),), ("0 first mean=33.3,std=78.5 hflip",)
        ),
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
        program = TensorFlowProgram(part.network, spec)
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
    *("sklearn", "float16", "map", "flatten", "max", "any_size", "grey", "figures", "grey_figures"),
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
