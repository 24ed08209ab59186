"""A preset as a flat Keras model of images alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.stages.errors import InputError, StageError, WeightsError, in_one_line
from permafrost.stages.frameworks.hub_classes import list_hub_classes, start_hub
from permafrost.stages.frameworks.model_file import check_count
from permafrost.stages.presets.converter import Converter, describe_converter
from permafrost.stages.presets.expanding import expand_model
from permafrost.stages.presets.folder import check_preset, fetch_preset, read_json
from permafrost.stages.presets.handles import CONFIG_NAME, IMAGE_EMBEDDING

# Of each family of transformers: how many tokens come before those of the patches, the class token
# among them as the first, if there is one. DeiT's second is that of distillation.
_TOKENS: Mapping[str, Callable[[Any], tuple[int, int]]] = {
    "CLIPBackbone": lambda _: (1, 1),
    "DINOV2Backbone": lambda model: (1, 1 + model.num_register_tokens),
    "DINOV3Backbone": lambda model: (1, 1 + model.num_register_tokens),
    "DeiTBackbone": lambda _: (1, 2),
    "MetaCLIP2Backbone": lambda _: (1, 1),
    "SigLIPBackbone": lambda _: (0, 0),
    "SwinTransformerBackbone": lambda _: (0, 0),
    "ViTBackbone": lambda model: (int(model.use_class_token),) * 2,
}
# What a model differs by, at most, from its own layers called one by one.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A loaded preset.

    Attributes
    ----------
    model : keras.Model
        Functional, from prepared images to what the preset's model gives of them. Of one that takes
        texts as well, what does not need them.
    tokens : tuple of int, optional
        How many class tokens a sequence begins with, and how many tokens that are of no patch,
        those counted; none for what has no tokens, and for what is not known.
    converter : Converter, optional
        How it prepares images, if it says so.
    """

    model: Any
    tokens: tuple[int, int] | None
    converter: Converter | None


def load_preset(preset: str, size: tuple[int, int] | None) -> Preset:
    """Fetch, check and load a preset, in float32.

    Parameters
    ----------
    preset : str
        As `parse_preset` returns it.
    size : tuple of int, optional
        Height and width of the images; the model's own if not given.

    Raises
    ------
    InputError
        KerasHub is not there, or the model takes no images, or none of that size.
    UnknownNameError, WeightsError
        The preset is not known, cannot be had, or is refused.
    """
    with opening(preset, f"the preset {preset!r} cannot be loaded") as folder:
        backbone = _load_backbone(folder, preset, size)
    images = _find_images(backbone, preset)
    return Preset(
        model=_take_apart(backbone, images),
        tokens=_TOKENS.get(type(backbone).__name__, lambda _: None)(backbone),
        converter=_load_converter(folder, preset, int(images.shape[-1] or 3)),
    )


@contextmanager
def opening(preset: str, failure: str) -> Iterator[Path]:
    """Fetch and check a preset, and give its folder.

    What the parsers and layers of Keras and KerasHub raise on it becomes one line, which begins
    with `failure`.
    """
    start_hub()
    import keras_hub

    folder = fetch_preset(preset)
    n_values = check_preset(folder)
    try:
        if n_values is not None:
            build = keras_hub.models.Backbone.from_preset
            check_count(lambda: build(str(folder), load_weights=False), n_values)
        yield folder
    except StageError:
        raise
    except ImportError as error:
        raise InputError(f"{failure}: {in_one_line(error)}") from error
    except Exception as error:
        raise WeightsError(f"{failure}: {in_one_line(error)}") from error


def _load_backbone(folder: Path, preset: str, size: tuple[int, int] | None) -> Any:
    config = read_json(folder / CONFIG_NAME)
    shape = config.get("config", {}).get("image_shape")
    if size is None or (shape and tuple(shape[:2]) == size):
        return build_backbone(folder)
    if not shape and "registered_name" in config:
        raise InputError(f"the preset {preset!r} takes images of one size; drop --size")
    channels = shape[2] if shape else 3
    try:
        return build_backbone(folder, image_shape=(*size, channels))
    except Exception as error:
        raise InputError(
            f"the preset {preset!r} does not take images of {size[0]}x{size[1]}"
            f" ({in_one_line(error)[:150]}); drop --size"
        ) from error


def build_backbone(folder: Path, **options: Any) -> Any:
    """Build the model of a preset that was checked, with its weights, in float32.

    Raises
    ------
    InputError
        It is none of KerasHub's vision models.
    Exception
        Whatever Keras and KerasHub raise.
    """
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(str(folder), dtype="float32", **options)
    kind = type(backbone)
    if (kind.__module__, kind.__name__) not in list_hub_classes():
        raise InputError(f"{kind.__name__} is none of KerasHub's vision models; name one of those")
    return backbone


def _find_images(backbone: Any, preset: str) -> Any:
    images = [tensor for tensor in backbone.inputs if len(tensor.shape) == 4]
    others = len(backbone.inputs) - len(images)
    if len(images) != 1 or (others and not hasattr(backbone, "get_vision_embeddings")):
        raise InputError(
            f"the preset {preset!r} is a {type(backbone).__name__}, which does not take one image"
            " alone; name one of KerasHub's vision models"
        )
    return images[0]


def _take_apart(backbone: Any, images: Any) -> Any:
    """Return the model with what lies inside its layers; the same numbers, or it is left whole."""
    import keras

    def run(inputs: Any) -> Any:
        if hasattr(backbone, "get_vision_embeddings"):
            embedding = backbone.get_vision_embeddings(inputs)
            return keras.layers.Identity(name=IMAGE_EMBEDDING)(embedding)
        named = isinstance(backbone.input, dict)
        return backbone.call({images.name: inputs} if named else inputs)

    example = np.random.default_rng(0).random((1, *(n or 64 for n in images.shape[1:]))) - 0.5
    expected = keras.tree.flatten(run(keras.ops.convert_to_tensor(example, "float32")))
    model = expand_model(backbone, run, keras.Input(images.shape[1:], name="images"))
    for one, other in zip(expected, keras.tree.flatten(model(example)), strict=True):
        reference = keras.ops.convert_to_numpy(one)
        error = np.abs(keras.ops.convert_to_numpy(other) - reference).max()
        if not error <= _TOLERANCE * np.abs(reference).max():
            raise InputError(
                f"{backbone.name} gives other numbers layer by layer than as a whole, with this"
                " version of keras-hub; use another"
            )
    return model


def _load_converter(folder: Path, preset: str, n_channels: int) -> Converter | None:
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise WeightsError(
            f"the image converter of the preset {preset!r} cannot be loaded: {in_one_line(error)}"
        ) from error
    return describe_converter(converter, n_channels)


def list_blocks(names: list[str]) -> list[str]:
    """List the blocks among the layers of a model: the outermost ones with a number, in its order.

    Parameters
    ----------
    names : list of str
        Of its layers, as `expand_model` gives them.
    """
    numbered = [name for name in names if re.search(r"_\d+$", name)]
    inside = {name for name in names if "." in name}
    outer = {name for name in numbered if any(one.startswith(f"{name}.") for one in inside)}
    return [
        name
        for name in numbered
        if name in outer and not any(name.startswith(f"{one}.") for one in outer)
    ]
