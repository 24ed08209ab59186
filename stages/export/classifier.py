"""One Keras model of a backbone and a head: uint8 images in, probabilities or values out.

Everything in it is Keras' own, so that the file loads, in safe mode, where this project is not
installed; of a preset, some is KerasHub's, which has to be there then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from permafrost.stages.backbones.applications import OWN_NAME
from permafrost.stages.errors import InputError, in_one_line
from permafrost.stages.export.backbone_part import ExportPart, run_backbones, share_input_shape
from permafrost.stages.export.head_part import apply_head, join_features
from permafrost.stages.frameworks.hub_classes import PACKAGE
from permafrost.stages.frameworks.start import start_tensorflow

SUFFIX = ".keras"
# What the archive holds besides what Keras puts there, and Keras does not look at.
RECORD_NAME = "classifier.json"


def build_classifier(parts: Sequence[ExportPart], head: Any, *, order: Sequence[int] = ()) -> Any:
    """Join backbones, cut behind the layers asked for, and a head into one Keras model.

    Parameters
    ----------
    parts : sequence of ExportPart
        At least one. Their features, each flattened, are joined in this order.
    order : sequence of int
        Which of the head's outputs stands in each place; as they are by default.

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

    image = keras.Input(share_input_shape(parts), dtype="uint8", name="image")
    activations = run_backbones(parts, image)
    features = join_features(parts, activations, head)
    if features.shape[1] != head.n_features:
        raise InputError(
            f"the head was fitted on {head.n_features} features an image, and"
            f" {', '.join(str(part.layer) for part in parts)} give {features.shape[1]};"
            " name the layers that it was fitted on"
        )
    outputs = apply_head(head, features)
    if list(order) != sorted(order):
        outputs = keras.ops.take(outputs, list(order), axis=1)
    return keras.Model(image, outputs, name=f"{OWN_NAME}_classifier")


def flatten_model(model: Any) -> Any:
    """Return a model in which the layers of nested models stand in their places.

    Its layers are those of the other, by their own names, so that each can be named, cut at and
    trained on.
    """
    import keras

    image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image")
    return keras.Model(image, _call_flat(model, image, {"image": None}), name=model.name)


def _call_flat(model: Any, tensor: Any, named: dict[str, Any]) -> Any:
    """Call each layer of a model with one input and one output, symbolically.

    `named` are the layers by name; one whose name another has gets a number behind it.
    """
    import keras

    found: dict[int, Any] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            output = _call_flat(layer, args[0], named)
        else:
            _name_apart(layer, named)
            output = layer(*args, **kwargs)
        found[id(layer)] = output
        return output

    keras.models.clone_model(
        keras.Model(model.inputs, model.outputs),  # A Sequential takes no call_function.
        input_tensors=[tensor],
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return found[id(model.outputs[0]._keras_history.operation)]


def _name_apart(layer: Any, named: dict[str, Any]) -> None:
    plain, number = layer.name, 1
    while named.setdefault(layer.name, layer) is not layer:
        number += 1
        layer.name = f"{plain}_{number}"


def describe_answer(
    *, task: str, classes: Iterable[str], pixels: Mapping[str, object]
) -> dict[str, object]:
    """Return what a program needs to know of an exported model, as `save_classifier` takes it."""
    return {"task": task, "classes": [str(name) for name in classes], "pixels": dict(pixels)}


def check_layers(
    model: Any, *, what: str = "exported", remedy: str = "keep the folder, for predict"
) -> None:
    """Raise InputError where Keras could not read a model of KerasHub's layers back from a file.

    It says what cannot be done with such layers, and what can be.
    """
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__module__.split(".")[0] != PACKAGE:
            continue
        try:
            type(layer).from_config(layer.get_config())
        except (TypeError, ValueError) as error:
            raise InputError(
                f"KerasHub's {type(layer).__name__} cannot be {what}: it does not read what it"
                f" writes ({in_one_line(error)[:120]}); {remedy}"
            ) from error


def check_parts(parts: Sequence[ExportPart]) -> None:
    """Raise InputError where Keras could not read back what is to stand before any head."""
    start_tensorflow()
    import keras

    image = keras.Input(share_input_shape(parts), dtype="uint8", name="image")
    outputs = [one for found in run_backbones(parts, image) for one in found.values()]
    check_layers(keras.Model(image, outputs))


def save_classifier(
    model: Any, path: Path, *, task: str, classes: Iterable[str], pixels: Mapping[str, object]
) -> None:
    """Write the model, and in the same archive `RECORD_NAME`, a JSON object of the arguments.

    Parameters
    ----------
    task : str
        One of `stages.datasets.targets.TASKS`.
    classes : iterable of str
        What each output stands for; none for a regression.
    pixels : mapping of str to object
        How an image file becomes the model's input, as in ``{"resize": "bilinear"}``.
    """
    if path.suffix != SUFFIX:
        raise InputError(f"cannot export to {str(path)!r}; name a file that ends in {SUFFIX}")
    check_layers(model)
    model.save(path)
    record = describe_answer(task=task, classes=classes, pixels=pixels)
    with ZipFile(path, "a") as archive:
        archive.writestr(RECORD_NAME, json.dumps(record, indent=2) + "\n")
