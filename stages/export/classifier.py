"""One Keras model of a backbone and a head: uint8 images in, probabilities or values out.

Everything in it is Keras' own, so that the file loads, in safe mode, where this project is not
installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from permafrost.stages.backbones.applications import PREPROCESS_MODES
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.backbones.network import KerasNetwork, Network
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.engines.tracing import (
    CAFFE_MEAN_BGR,
    TORCH_DEVIATION_RGB,
    TORCH_MEAN_RGB,
    VIEWS,
)
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.cutting import cut_model
from permafrost.stages.frameworks.start import start_tensorflow
from permafrost.stages.heads import HEADS, LinearForm

SUFFIX = ".keras"
# What the archive holds besides what Keras puts there, and Keras does not look at.
RECORD_NAME = "classifier.json"

# What pixels are multiplied by, and what is then added, channel by channel.
_RESCALING: Mapping[str, tuple[Any, Any]] = {
    "caffe": (1.0, [-mean for mean in CAFFE_MEAN_BGR]),
    "tf": (1 / 127.5, -1.0),
    "torch": (
        [1 / (255 * deviation) for deviation in TORCH_DEVIATION_RGB],
        [-m / d for m, d in zip(TORCH_MEAN_RGB, TORCH_DEVIATION_RGB, strict=True)],
    ),
    "none": (1.0, 0.0),
}
_COLOUR_MODES = ("caffe", "torch")
_WIDTH_AXIS, _CHANNEL_AXIS = 2, 3
_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "sigmoid", "identity": "linear"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """One layer of one backbone, as its features were computed.

    Attributes
    ----------
    network : Network
        What `stages.backbones.loading.load_backbone` returned, weights and all. Parts with the same one
        share its layers, and its work where preprocessing and view are the same too.
    layer : LayerSpec
    preprocess : str
        ``"caffe"``, ``"tf"``, ``"torch"`` or ``"none"``.
    view : str
        ``"identity"``, or ``"hflip"`` for the mirror image.
    dtype : str
        What the features were stored as; ``"float16"`` rounds them in the model as well, so that
        it answers as the head did.
    """

    network: Network
    layer: LayerSpec
    preprocess: str
    view: str = "identity"
    dtype: str = "float32"

    @property
    def pixels(self) -> tuple[str, str]:
        """What is done to the image before the network sees it."""
        return self.preprocess, self.view


def build_classifier(parts: Sequence[ExportPart], head: Any) -> Any:
    """Join backbones, cut behind the layers asked for, and a head into one Keras model.

    Parameters
    ----------
    parts : sequence of ExportPart
        At least one. Their features, each flattened, are joined in this order.
    head : Head
        Fitted on those features.

    Returns
    -------
    keras.Model
        From uint8, shape (n, height, width, channels), to float32, shape (n, n_outputs). The
        layers of the backbones are the networks' own, from here on not trainable.

    Raises
    ------
    InputError
        A backbone or head that Keras cannot hold, backbones that take different images, or a
        head that was fitted on other features.
    UnknownNameError
        A layer, preprocessing mode or view that does not exist.
    """
    start_tensorflow()
    import keras

    image = keras.Input(_share_input_shape(parts), dtype="uint8", name="image")
    activations = _run_backbones(parts, image)
    features = _join_features(parts, activations)
    if features.shape[1] != head.n_features:
        raise InputError(
            f"the head was fitted on {head.n_features} features an image, and"
            f" {', '.join(str(part.layer) for part in parts)} give {features.shape[1]};"
            " name the layers that it was fitted on"
        )
    return keras.Model(image, _apply_head(head, features), name="classifier")


def save_classifier(
    model: Any, path: Path, *, task: str, classes: Iterable[str], pixels: Mapping[str, object]
) -> None:
    """Write the model, and in the same archive `RECORD_NAME`, a JSON object of the arguments.

    Parameters
    ----------
    model : keras.Model
        What `build_classifier` returned.
    path : Path
        Ends in ``.keras``.
    task : str
        One of `stages.datasets.targets.TASKS`.
    classes : iterable of str
        What each output stands for; none for a regression.
    pixels : mapping of str to object
        How an image file becomes the model's input, as in ``{"resize": "bilinear"}``.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"cannot export to {str(path)!r}; name a file that ends in {SUFFIX}")
    model.save(path)
    record = {"task": task, "classes": [str(name) for name in classes], "pixels": dict(pixels)}
    with ZipFile(path, "a") as archive:
        archive.writestr(RECORD_NAME, json.dumps(record, indent=2) + "\n")


def _share_input_shape(parts: Sequence[ExportPart]) -> tuple[int, ...]:
    """Return height, width and channels of the image that all parts take."""
    shapes = [(*part.network.size, int(part.network.input_shape[2] or 3)) for part in parts]
    if len(set(shapes)) > 1:
        wanted = (
            f"{part.layer} takes {'x'.join(map(str, shape))}"
            for part, shape in zip(parts, shapes, strict=True)
        )
        raise InputError(
            f"one model takes one image, but {', '.join(wanted)}; extract all of them with the"
            " same --size"
        )
    return shapes[0]


# Backbones


def _run_backbones(parts: Sequence[ExportPart], image: Any) -> list[Any]:
    """Return the activation of each part's layer."""
    kinds = dict.fromkeys(part.pixels for part in parts)
    pixels = {kind: _preprocess(image, *kind) for kind in kinds}
    found: dict[tuple[Network, tuple[str, str], str], Any] = {}
    for number, network in enumerate(dict.fromkeys(part.network for part in parts), start=1):
        own = [part for part in parts if part.network is network]
        layers = list(dict.fromkeys(part.layer.layer for part in own))
        backbone = _cut_backbone(network, layers, number=number)
        for kind in dict.fromkeys(part.pixels for part in own):
            outputs = backbone(pixels[kind])
            found |= {(network, kind, x): y for x, y in zip(layers, outputs, strict=True)}
    return [found[part.network, part.pixels, part.layer.layer] for part in parts]


def _preprocess(image: Any, mode: str, view: str) -> Any:
    """Do what `stages.engines.tracing.preprocess` does, after the view, to within its rounding."""
    from keras import layers, ops

    if view not in VIEWS:
        raise UnknownNameError("view", view, VIEWS)
    if mode not in _RESCALING:
        raise UnknownNameError("preprocessing", mode, PREPROCESS_MODES)
    if mode in _COLOUR_MODES and image.shape[_CHANNEL_AXIS] != 3:
        raise InputError(f"preprocessing {mode!r} needs 3 channels; use tf or none")
    axes = [_WIDTH_AXIS] * (view == "hflip") + [_CHANNEL_AXIS] * (mode == "caffe")
    turned = ops.flip(image, axis=axes) if axes else image
    scale, offset = _RESCALING[mode]
    return layers.Rescaling(scale, offset, dtype="float32", name=f"pixels_{mode}_{view}")(turned)


def _cut_backbone(network: Network, layers: Sequence[str], *, number: int) -> Any:
    """Return the network up to `layers`, as a model that gives a list of their outputs."""
    import keras

    if not isinstance(network, KerasNetwork):
        raise InputError(
            "a backbone in a SavedModel folder cannot be exported: Keras has no layers to keep of"
            " it; save it as a .keras file with model.save('model.keras') and fit on that"
        )
    model = network.model
    shape = (*network.size, network.input_shape[2])
    pixels = keras.Input(shape, dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    cut = cut_model(model, layers, inputs=[pixels], name=f"backbone_{number}_{model.name}")
    cut.trainable = False
    return cut


# Features and head


def _join_features(parts: Sequence[ExportPart], activations: Sequence[Any]) -> Any:
    from keras import layers

    numbered = enumerate(zip(activations, parts, strict=True), start=1)
    features = [_pool(activation, part, number=n) for n, (activation, part) in numbered]
    if len(features) == 1:
        return features[0]
    return layers.Concatenate(dtype="float32", name="features")(features)


def _pool(activation: Any, part: ExportPart, *, number: int) -> Any:
    """Do what `stages.engines.tracing.pool` does, flatten, and round as storing does."""
    from keras import layers

    shape, pooling = tuple(activation.shape[1:]), part.layer.pooling
    part.layer.pool_shape(shape)  # Refuses to pool what has no height and width.
    kinds = {
        "avg": f"GlobalAveragePooling{len(shape) - 1}D",
        "max": f"GlobalMaxPooling{len(shape) - 1}D",
    }
    layer = getattr(layers, kinds.get(pooling, "Flatten"))
    pooled = layer(data_format="channels_last", dtype="float32", name=f"features_{number}")(
        activation
    )
    if part.dtype == "float32":
        return pooled
    return layers.Identity(dtype=part.dtype, name=f"features_{number}_{part.dtype}")(pooled)


def _apply_head(head: Any, features: Any) -> Any:
    network = getattr(head, "network", None)
    if network is not None:
        return network(features)
    form = head.linear_form()
    if form is None:
        others = [name for name, kind in HEADS.items() if not kind.keeps_rows]
        raise InputError(
            f"the head {head.kind!r} consists of training rows and cannot be exported; fit one of"
            f" {', '.join(others)}"
        )
    name = "value" if head.task == REGRESSION else "probabilities"
    return _apply_linear(form, features, name=name)


def _apply_linear(form: LinearForm, features: Any, *, name: str) -> Any:
    """Scale and multiply.

    Features are centred in float32 before they are divided, which is exact where it matters:
    where the mean is large beside the deviations. The division is multiplied into the weights in
    float64, and what the means lost as float32 comes back with the bias.
    """
    from keras import layers

    weights, bias = form.weights, form.bias
    if form.mean is not None and form.std is not None:
        weights = weights / form.std[:, None]
        mean = form.mean.astype(np.float32)
        bias = bias - (form.mean - mean) @ weights
        features = _build_centring(mean)(features)
    elif form.scale == "l2":
        features = layers.UnitNormalization(dtype="float32", name="l2")(features)
    activation = _ACTIVATIONS[form.link]
    dense = layers.Dense(len(bias), activation=activation, dtype="float32", name=name)
    outputs = dense(features)
    dense.set_weights([weights, bias])
    return outputs


def _build_centring(mean: Any) -> Any:
    from keras import layers

    # Given as arguments, the numbers would be text in the model's configuration.
    centre = layers.Normalization(dtype="float32", name="centre")
    centre.build((None, len(mean)))
    centre.set_weights([mean, np.ones_like(mean), np.array(0)])
    centre.finalize_state()
    return centre
