"""How a preset prepares images, as figures: what its image converter is built with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from permafrost.stages.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """How images are resized and scaled; all of it decides about the numbers.

    Attributes
    ----------
    size : tuple of int, optional
        Height and width that images are resized to; none where it leaves that to others.
    resize, resize_mode : str
        As `stages.decoding.decode.DecodeSpec` takes them.
    preprocess : str
        A mode of `stages.backbones.preprocessing`.
    """

    size: tuple[int, int] | None
    resize: str
    resize_mode: str
    preprocess: str


def describe_converter(converter: Any, n_channels: int) -> Converter:
    """Describe an image converter.

    Parameters
    ----------
    converter : keras_hub.layers.ImageConverter
    n_channels : int
        Of the images.

    Raises
    ------
    InputError
        It scales by 0 or by less, or in another number of channels.
    """
    mode = "pad" if converter.pad_to_aspect_ratio else "stretch"
    end = "-antialias" if converter.antialias else ""
    size = converter.image_size
    return Converter(
        size=(int(size[0]), int(size[1])) if size else None,
        resize=f"keras-{converter.interpolation}{end}",
        resize_mode="crop" if converter.crop_to_aspect_ratio else mode,
        preprocess=_describe_scaling(converter, n_channels),
    )


def _describe_scaling(converter: Any, n_channels: int) -> str:
    """Write pixels * scale + offset as (pixels - mean) / std."""
    if converter.scale is None and converter.offset is None:
        return "none"
    scale = _list_figures(converter.scale, 1.0, n_channels)
    offset = _list_figures(converter.offset, 0.0, n_channels)
    if min(scale) <= 0:
        raise InputError(
            f"the preset's image converter multiplies pixels by {min(scale):g}; say how they are"
            " scaled with --preprocess"
        )
    mean = ",".join(repr(-added / factor) for added, factor in zip(offset, scale, strict=True))
    return f"mean={mean},std={','.join(repr(1 / factor) for factor in scale)}"


def _list_figures(given: Any, default: float, n_channels: int) -> list[float]:
    figures = [default] if given is None else given if isinstance(given, Sequence) else [given]
    figures = [float(one) for one in figures]
    if len(figures) not in (1, n_channels):
        raise InputError(
            f"the preset's image converter scales {len(figures)} channels, and its model takes"
            f" {n_channels}; say how pixels are scaled with --preprocess"
        )
    return figures * (n_channels // len(figures))
