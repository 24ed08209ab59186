"""Layer specs, and what is known of a backbone's layers without loading it again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from permafrost.command import COMMAND
from permafrost.stages.backbones.pooling import POOLINGS, pool
from permafrost.stages.errors import InputError, UnknownNameError

_SHAPE_RANK_WITH_SPACE = 2


@dataclass(frozen=True, slots=True, order=True)
class LayerSpec:
    """A layer and its pooling: ``block5_pool:avg``; pooling ``"none"`` is left out in text."""

    layer: str
    pooling: str = "none"

    def __str__(self) -> str:
        """Write it as a user would."""
        return self.layer if self.pooling == "none" else f"{self.layer}:{self.pooling}"

    def pool_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row, from the shape of the layer's output without the batch."""
        if self.pooling == "flatten":
            return (math.prod(shape),)
        if self.pooling == "none":
            return shape
        if len(shape) < _SHAPE_RANK_WITH_SPACE:
            raise InputError(
                f"{self.layer!r} has no height and width to pool (its output is {shape});"
                f" write it without {':' + self.pooling!r}"
            )
        return (shape[-1],)

    def pool(self, xp: Any, activation: Any) -> Any:
        """Pool activations of this layer, as `pooling.pool`; refuses what `pool_shape` does."""
        self.pool_shape(tuple(activation.shape[1:]))
        return pool(xp, activation, self.pooling)


def parse_layer_spec(text: str) -> LayerSpec:
    """Read ``block5_pool`` or ``block5_pool:avg``."""
    layer, _, pooling = text.strip().partition(":")
    if not layer:
        raise InputError(f"empty layer name in {text!r}")
    if pooling and pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, POOLINGS, where=f"in {text!r}")
    return LayerSpec(layer, pooling or "none")


def parse_layer_specs(texts: str | Iterable[str]) -> list[LayerSpec]:
    """Read several, from a list or from one text with commas; repeated ones count once."""
    parts = texts.split(",") if isinstance(texts, str) else texts
    return list(dict.fromkeys(parse_layer_spec(part) for part in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCard:
    """One layer of a backbone.

    Attributes
    ----------
    shape : tuple of int
        Of its output for one image.
    digest : str
        SHA-256 over architecture and weights of the network up to this layer, in hex.
    """

    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneCard:
    """What planning needs to know of a backbone, without TensorFlow.

    Attributes
    ----------
    name : str
        The model's own name, as in ``mobilenet_1.00_224``.
    size : tuple of int
        Height and width of its input, in pixels.
    channels : int
        3, or 1 for a network of grey images.
    scales_input : bool
        Whether the network changes the values of its pixels before its first weights: what they
        are otherwise prepared with, it does itself.
    layers : mapping of str to LayerCard
        In the network's order.
    """

    name: str
    size: tuple[int, int]
    channels: int
    scales_input: bool
    layers: Mapping[str, LayerCard]

    def find_layer(self, name: str, *, backbone: str = "BACKBONE") -> LayerCard:
        """Return a layer's card; an unknown name proposes the nearest.

        Parameters
        ----------
        name : str
        backbone : str
            What the user calls the backbone, for the remedy.
        """
        if name not in self.layers:
            raise UnknownNameError(
                "layer",
                name,
                self.layers,
                where=f"of {self.name}",
                remedy=f"list them with: {COMMAND} layers {backbone}",
            )
        return self.layers[name]

    def to_json(self) -> str:
        """Write the card as JSON."""
        layers = {name: [list(card.shape), card.digest] for name, card in self.layers.items()}
        return json.dumps([self.name, self.size, self.channels, self.scales_input, layers])

    @classmethod
    def from_json(cls, text: str) -> BackboneCard:
        """Read what `to_json` wrote."""
        name, (height, width), channels, scales_input, layers = json.loads(text)
        cards = {
            layer: LayerCard(shape=tuple(shape), digest=digest)
            for layer, (shape, digest) in layers.items()
        }
        return cls(
            name=name,
            size=(height, width),
            channels=channels,
            scales_input=scales_input,
            layers=cards,
        )
