"""Heads on the layer ``pixels`` learn from values between 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost import BackboneFeatures, open_features
from permafrost.cache.views.features import Features
from permafrost.pipeline.tasks.layer_matrix import LayerMatrix, find_layer
from permafrost.stages.backbones.layers import parse_layer_spec


@pytest.fixture
def images(extract, tmp_path):
    out = tmp_path / "images.h5"
    split = ("--split", "test=0.5", "--seed", "1")
    extract("--size", "16", *split, model="none", layers="pixels", out=out)
    return out


@pytest.fixture
def fit_images(command, images, tmp_path):
    def call(*options):
        arguments = ("--features", images, "--layer", "pixels", "--out", tmp_path / "out")
        return command("fit", *arguments, "--json", *options).figures

    return call


def read_bytes(file):
    with open_features(file) as features:
        return features.to_numpy("pixels"), features.labels, features.splits


def test_a_matrix_of_images_is_between_0_and_1(images):
    stored = read_bytes(images)[0].reshape(12, -1)
    with Features(images) as features:
        layer = find_layer(0, features, parse_layer_spec("pixels"))
        matrix = LayerMatrix(features=features, layer=layer, rows=np.arange(12))
        rows = np.array([3, 1, 11])
        assert (matrix.dtype, matrix.shape) == (np.float32, (12, 16 * 16 * 3))
        expected = (stored[rows] / 255).astype(np.float32)
        np.testing.assert_array_equal(matrix.read(rows), expected)
        # As many bytes as were asked for, of what it gives.
        blocks = list(matrix.iterate_columns(rows, n_bytes=1200))
        assert max(block.nbytes for block in blocks) <= 1200
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)


@pytest.mark.parametrize("scale", ["none", "standard"])
def test_a_regression_on_images_is_scikit_learns(fit_images, images, tmp_path, scale):
    fit_images("--head", "logreg", "--set", "C=0.1", "--set", f"scale={scale}")
    stored, labels, splits = read_bytes(images)
    values = stored.reshape(12, -1) / 255
    model = LogisticRegression(C=0.1, max_iter=1000, tol=1e-10)
    if scale == "standard":
        model = make_pipeline(StandardScaler(), model)
    model.fit(values[splits != "test"], labels[splits != "test"])
    rows = (tmp_path / "out/predictions.csv").read_text().splitlines()[1:]
    said = [[float(text) for text in row.split(",")[3:]] for row in rows]
    np.testing.assert_allclose(said, model.predict_proba(values[splits == "test"]), atol=1e-4)


@pytest.mark.parametrize("head", ["mlp", "sgd", "knn", "ridge"])
def test_heads_of_every_kind_learn_from_images(fit_images, head):
    more = ("--set", "epochs=2") if head == "mlp" else ()
    assert fit_images("--head", head, *more)["n_train"] == 6


def test_a_sweep_does_not_pool_images(command, images, tmp_path):
    answer = command(
        *("sweep", "--features", images, "--heads", "logreg", "--poolings", "avg,none"),
        *("--cv", "2", "--out", tmp_path / "sweep", "--json"),
    )
    assert answer.status == 0, answer.err
    assert "pixels:" not in (tmp_path / "sweep/results.csv").read_text()


def test_a_transformer_of_images_gives_0_to_1(photos, tmp_path):
    transformer = BackboneFeatures("none", "pixels", size=16, cache_dir=tmp_path / "cache")
    paths = sorted(photos.glob("*/*.jpg"))
    values = transformer.fit(paths).transform(paths)
    assert (values.dtype, values.shape) == (np.float32, (12, 768))
    assert 0 <= values.min() < 0.1
    assert 0.9 < values.max() <= 1
    assert transformer.get_feature_names_out()[0] == "pixels_0"
