"""Images changed at random while a network is trained on them."""

from __future__ import annotations

import math
from typing import Any

from permafrost.stages.errors import InputError
from permafrost.stages.heads.settings import choice, setting
from permafrost.stages.matrices.matrix import RowOrigin

# By how much of their height and width images are shifted, at most.
_SHIFT = 0.125


def augment_setting() -> str:
    """Declare ``augment``, which is one thing for all heads."""
    names = ("none", "flip", "crop", "flip+crop")
    return setting("none", choice(*names), f"one of {', '.join(names)}")


def build_augment(augment: str, origin: RowOrigin) -> Any:
    """Return a Keras model from flat rows to flat rows; None where nothing is to be changed.

    Parameters
    ----------
    augment : str
        What `augment_setting` parsed.

    Raises
    ------
    InputError
        The rows are no images: what a network makes of a mirrored image is another thing than the
        mirrored map.
    """
    if augment == "none":
        return None
    if not origin.is_image:
        raise InputError(
            f"augment={augment} changes images, and these are features of them; fit on the layer"
            " pixels, or drop augment"
        )
    from keras import Input, Sequential, layers

    shift = {"fill_mode": "reflect", "interpolation": "nearest", "data_format": "channels_last"}
    known = {
        "flip": lambda: layers.RandomFlip("horizontal", data_format="channels_last"),
        "crop": lambda: layers.RandomTranslation(_SHIFT, _SHIFT, **shift),
    }
    n_features = math.prod(origin.shape)
    return Sequential(
        [
            Input((n_features,)),
            layers.Reshape(origin.shape),
            *(known[name]() for name in augment.split("+")),
            layers.Flatten("channels_last"),
        ],
        name="augment",
    )
