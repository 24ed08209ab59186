"""A feature set's recipe: everything that determines its numbers, as one flat record."""

from __future__ import annotations

from permafrost.cache.store.recipe import JsonValue, Recipe
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.stages.backbones.calls import LAST
from permafrost.stages.backbones.layers import PIXELS, LayerSpec
from permafrost.stages.backbones.preprocessing import check_view
from permafrost.stages.decoding.choices import name_color
from permafrost.stages.decoding.decode import DecodeSpec

# Raised when our own code changes the numbers it computes from the same inputs.
NUMERICS = 2
# The same of an engine alone. OpenVINO's outputs of one shape may have been exchanged before 3.
_NUMERICS_OF = {"openvino": 3}
# What in a recipe says how an image file becomes pixels.
DECODING = ("size", "color", "resize", "resize_mode", "orient", "decode")


def build_recipe(options: FeatureOptions, backbone: Backbone, layer: LayerSpec) -> Recipe:
    """Build the recipe of one layer.

    Never in it: batch size, chunking, compression, paths, file names, time. That of the images
    themselves is how they are decoded, and of no backbone: all of one size share them. The view is
    that of the layer, or else the first that the options name.

    Raises
    ------
    InputError
        The view is none of images of this size.
    """
    card = backbone.card
    view = layer.view or options.views[0]
    resize, resize_mode = backbone.resizing
    check_view(view, card.size)
    recipe: dict[str, JsonValue] = {
        "color": name_color(card.channels),
        "decode": options.decode,
        "layer": layer.layer,
        "numerics": NUMERICS,
        "orient": options.orient,
        "pooling": layer.pooling,
        "resize": resize,
        "resize_mode": resize_mode,
        "size": list(card.size),
        "view": view,
    }
    if layer.is_pixels:
        return recipe | {"backbone": PIXELS, "dtype": "uint8"}
    layer_card = card.find_layer(layer.layer)
    recipe |= {
        "backbone": card.name,
        "dtype": options.dtype,
        "engine": options.full_engine,
        "numerics": _NUMERICS_OF.get(options.engine, NUMERICS),
        "precision": options.precision,
        "preprocess": backbone.preprocess,
        "weights": layer_card.digest,
    }
    if layer_card.channel_axis != LAST and len(layer_card.shape) > 1:
        # Only then: one more key in every recipe would make all caches miss.
        recipe["channel_axis"] = layer_card.channel_axis
    if layer_card.tokens and len(layer_card.shape) == 2:
        # What token poolings of the cached layer need to know.
        recipe["tokens"] = [layer_card.tokens.n_class, layer_card.tokens.n_before]
    return recipe


def build_decode_spec(options: FeatureOptions, backbone: Backbone) -> DecodeSpec:
    """Build what decoding an image needs to know."""
    height, width = backbone.card.size
    resize, resize_mode = backbone.resizing
    return DecodeSpec(
        height=height,
        width=width,
        resize=resize,
        resize_mode=resize_mode,
        orient=options.orient,
        color=name_color(backbone.card.channels),
        decoding=options.decode,
    )
