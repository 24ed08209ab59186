"""Small models of KerasHub's vision families with random weights, as preset folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
_BLOCKS = {"num_layers": 5, "num_heads": 2, "hidden_dim": 16}
_WIDE = _BLOCKS | {"intermediate_dim": 24}
_SHAPE = {"image_shape": (SIDE, SIDE, 3)}
_TEXT = {"vocabulary_size": 11, "embedding_dim": 16, "max_sequence_length": 8}
# Name → what of KerasHub builds it, how; how many tokens begin a sequence: of the class, in all.
BUILDERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIP", {"projection_dim": 12}),
    "deit": ("DeiT", _WIDE | _SHAPE | {"patch_size": 8}),
    "dinov2": (
        "DINOV2",
        _WIDE
        | _SHAPE
        | {"patch_size": 8, "num_register_tokens": 2, "position_embedding_shape": (48, 48, 3)},
    ),
    "dinov3": ("DINOV3", _WIDE | _SHAPE | {"patch_size": 8}),
    "resnet": (
        "ResNet",
        _SHAPE
        | {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 64],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        },
    ),
    "siglip": ("SigLIP", {}),
    "swin": (
        "SwinTransformer",
        _SHAPE | {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4},
    ),
    "vit": (
        "ViT",
        _BLOCKS | _SHAPE | {"patch_size": 8, "mlp_dim": 24},
    ),
}
TOKENS = {
    "clip": (1, 1),
    "deit": (1, 2),
    "dinov2": (1, 3),
    "dinov3": (1, 5),
    "siglip": (0, 0),
    "swin": (0, 0),
    "vit": (1, 1),
}
CONVERTER = {
    "image_size": (SIDE, SIDE),
    "scale": [1 / 58.0, 1 / 57.0, 1 / 57.5],
    "offset": [-2.1, -2.0, -1.8],
    "interpolation": "bicubic",
    "antialias": True,
}


def build_preset(name: str) -> Any:
    """Return a model of KerasHub's, whose weights are all random and the same every time."""
    import keras
    import keras_hub

    prefix, options = BUILDERS[name]
    models = keras_hub.models
    keras.utils.set_random_seed(len(name))
    if name in ("clip", "siglip"):
        vision = getattr(models, f"{prefix}VisionEncoder")(**_WIDE, **_SHAPE, patch_size=8)
        text = getattr(models, f"{prefix}TextEncoder")(**_WIDE, **_TEXT)
        options = options | {"vision_encoder": vision, "text_encoder": text}
    model = getattr(models, f"{prefix}Backbone")(**options)
    values = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype and "variance" not in weight.name:
            weight.assign(weight + 0.1 * values.standard_normal(weight.shape))
    return model


def save_preset(name: str, folder: Path, **converter: Any) -> Path:
    """Write a preset with its image converter, as ``save_to_preset`` does."""
    import keras_hub

    build_preset(name).save_to_preset(str(folder))
    kind = getattr(keras_hub.layers, f"{BUILDERS[name][0]}ImageConverter")
    kind(**(CONVERTER | converter)).save_to_preset(str(folder))
    return folder


def call_preset(model: Any, images: Any) -> Any:
    """Call what of a model takes images alone."""
    if hasattr(model, "get_vision_embeddings"):
        return model.get_vision_embeddings(images)
    return model({model.inputs[0].name: images} if isinstance(model.input, dict) else images)


def record_layers(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run a model layer by layer, and return what each gives first, by its path of attributes.

    The layers are found through what holds them, and called as KerasHub itself calls them.
    """
    import keras

    outputs: dict[str, np.ndarray] = {}
    for path, layer in _walk(model, ""):
        call = layer.call

        def recording(*args: Any, _call: Any = call, _path: str = path, **kwargs: Any) -> Any:
            output = _call(*args, **kwargs)
            first = output[0] if isinstance(output, tuple) else output
            if hasattr(first, "shape"):
                outputs.setdefault(_path, np.asarray(first))
            return output

        layer.call = recording
    last = call_preset(model, keras.ops.convert_to_tensor(images))
    if hasattr(model, "get_vision_embeddings"):
        outputs["image_embedding"] = np.asarray(last)
    return outputs


def _walk(layer: Any, prefix: str) -> Any:
    import keras

    is_model = isinstance(layer, keras.Model)
    for inner in layer.layers if is_model else layer._layers:
        name = inner.name.removeprefix(f"{layer.name}_") if is_model else inner.name
        name = "vision_encoder" if inner is getattr(layer, "vision_encoder", None) else name
        if not isinstance(inner, keras.layers.InputLayer):
            yield prefix + name, inner
            if not type(inner).__module__.startswith("keras.src.layers"):
                yield from _walk(inner, f"{prefix}{name}.")
