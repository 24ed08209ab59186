"""Networks and heads that are exported as one model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers as kl
from scipy.special import softmax
from sklearn.datasets import load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.backbones.network import KerasNetwork
from permafrost.stages.datasets.targets import Targets
from permafrost.stages.heads import Head, LinearForm, fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix

SIDE = 96


def crop_photos(side, n_photos, channels=3):
    photos = [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    crops = [photos[n % 2][9 * n : 9 * n + side, 17 * n : 17 * n + side] for n in range(n_photos)]
    return np.ascontiguousarray(np.stack(crops)[..., :channels])


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


@dataclass(frozen=True, kw_only=True)
class LinearHead(Head):
    """A linear form and, by itself, what it says of features."""

    form: LinearForm

    @property
    def n_features(self):
        return len(self.form.weights)

    def linear_form(self):
        return self.form

    def make_predictor(self):
        return lambda features: softmax(score(self.form, features), axis=1)

    def write_fitted(self, folder):
        raise NotImplementedError


def make_head(form):
    classes = np.array([f"class {n}" for n in range(len(form.bias))])
    return LinearHead(
        kind="logreg", settings=None, task="classification", classes=classes, form=form
    )


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
    return make_head(replace(form, weights=weights / np.abs(score(form, features)).max()))


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
    head = make_head(form)
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
