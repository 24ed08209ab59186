"""One Keras model of a backbone and a head: uint8 images in, probabilities or values out.

Everything in it is Keras' own, so that the file loads, in safe mode, where this project is not
installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from permafrost.stages.errors import InputError
from permafrost.stages.export.backbone_part import ExportPart, run_backbones, share_input_shape
from permafrost.stages.export.head_part import apply_head, join_features
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
    head : Head
        Fitted on those features.
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
    return keras.Model(image, outputs, name="classifier")


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
