"""Layer specs, and what is known of a backbone's layers without loading it again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from permafrost.command import COMMAND
from permafrost.stages.backbones.calls import LAST
from permafrost.stages.backbones.pooling import (
    LAST_BLOCKS,
    POOLINGS,
    TOKEN_POOLINGS,
    Tokens,
    count_channels,
    find_grid,
    is_pooling,
    pool,
    pool_tokens,
)
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.presets.converter import Converter

# What every backbone has besides its own layers: the decoded and resized image, as uint8.
PIXELS = "pixels"
# Between a layer spec and a view; no layer of a network has it in its name.
SEEN_AS = "@"
# As in ``first:8``, the last of the first layers of a network, as Keras counts them.
FIRST = "first"
_SHAPE_RANK_WITH_SPACE = 2


class LayerFacts(Protocol):
    """What pooling needs to know of a network."""

    def find_channel_axis(self, layer: str) -> int:
        """Return where a layer's channels are, the batch's axis counted; -1 for the last."""

    def find_tokens(self, layer: str) -> Tokens | None:
        """Return which of a layer's tokens are which, where that is known."""


@dataclass(frozen=True, slots=True, order=True)
class LayerSpec:
    """A layer and its pooling: ``block5_pool:avg``; pooling ``"none"`` is left out in text.

    `view` is said of all views of the images but the first: ``block5_pool:avg@hflip``.
    """

    layer: str
    pooling: str = "none"
    view: str = ""

    def __str__(self) -> str:
        text = self.layer if self.pooling == "none" else f"{self.layer}:{self.pooling}"
        return f"{text}{SEEN_AS}{self.view}" if self.view else text

    @property
    def without_view(self) -> LayerSpec:
        """The same of the first view."""
        return LayerSpec(self.layer, self.pooling)

    @property
    def n_first(self) -> int | None:
        """How many layers it is the last of, where it is written so and the name is not known."""
        prefix, _, number = self.layer.partition(":")
        return int(number) if prefix == FIRST and number else None

    @property
    def is_pixels(self) -> bool:
        """Whether it is the image itself, for which no network runs."""
        return self.layer == PIXELS

    @property
    def _takes_tokens(self) -> bool:
        return self.pooling in (*TOKEN_POOLINGS, LAST_BLOCKS)

    def list_sources(self, tokens: Tokens | None) -> tuple[str, ...]:
        """Return the layers that it is made of: itself, or the last blocks up to it."""
        return tokens.blocks if tokens and self.pooling == LAST_BLOCKS else (self.layer,)

    def pool_shape(
        self, shape: tuple[int, ...], *, channel_axis: int, tokens: Tokens | None = None
    ) -> tuple[int, ...]:
        """Return the shape of one row, from that of the layer's output without the batch's axis.

        That axis counts in `channel_axis`, as in `pooling.pool`.
        """
        if self.pooling == "flatten":
            return (math.prod(shape),)
        if self.pooling == "none":
            return shape
        if self._takes_tokens:
            if tokens is None:
                raise InputError(
                    f"which tokens of {self.layer!r} are which is known of KerasHub's vision"
                    f" transformers alone; write '{self.layer}:avg' for the mean of all"
                )
            tokens.check(self.layer, self.pooling, shape)
            return (count_channels(self.pooling, shape[-1]),)
        if len(shape) < _SHAPE_RANK_WITH_SPACE:
            raise InputError(
                f"{self.layer!r} has no height and width to pool (its output is {shape});"
                f" write it without {':' + self.pooling!r}"
            )
        n_cells = find_grid(self.pooling) or 1
        return (n_cells ** (len(shape) - 1) * (0, *shape)[channel_axis],)

    def pool(
        self, xp: Any, activation: Any, *, channel_axis: int, tokens: Tokens | None = None
    ) -> Any:
        """Pool activations of this layer, as `pooling.pool`; refuses what `pool_shape` does.

        For `pooling.LAST_BLOCKS` it takes a list of them, of `list_sources`.
        """
        activations = activation if isinstance(activation, list) else [activation]
        shape = tuple(activations[0].shape[1:])
        self.pool_shape(shape, channel_axis=channel_axis, tokens=tokens)
        if tokens and self._takes_tokens:
            return pool_tokens(xp, activations, self.pooling, tokens)
        return pool(xp, activations[0], self.pooling, channel_axis=channel_axis)


def pool_outputs(xp: Any, spec: LayerSpec, found: Mapping[str, Any], network: LayerFacts) -> Any:
    """Pool what layers of a network gave, by name, to what a spec asks for; in float32."""
    tokens = network.find_tokens(spec.layer)
    outputs = [xp.cast(found[name], "float32") for name in spec.list_sources(tokens)]
    axis = network.find_channel_axis(spec.layer)
    return spec.pool(xp, outputs, channel_axis=axis, tokens=tokens)


def parse_layer_spec(text: str) -> LayerSpec:
    """Read ``block5_pool`` or ``block5_pool:avg``."""
    bare, names_view, _ = text.strip().partition(SEEN_AS)
    if names_view:
        raise InputError(
            f"{text!r} is one view of {bare!r}; write {bare!r}: heads learn from all views, which"
            " extract --view names"
        )
    layer, _, pooling = bare.partition(":")
    if not layer:
        raise InputError(f"empty layer name in {text!r}; write it as block5_pool:avg")
    counted = re.fullmatch(rf"{FIRST}:([1-9]\d{{0,4}})(?::(\w+))?", text.strip())
    if counted:
        layer, pooling = f"{FIRST}:{counted[1]}", counted[2] or ""
    if pooling and not is_pooling(pooling):
        raise UnknownNameError("pooling", pooling, POOLINGS, where=f"in {text!r}")
    spec = LayerSpec(layer, pooling or "none")
    if spec.is_pixels and spec.pooling != "none":
        raise InputError(
            f"{text!r}: images are kept as they are, and heads flatten them; write {PIXELS}"
        )
    return spec


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
    channel_axis : int
        Where its channels are, the batch's axis counted; -1 for the last.
    n_calls : int
        How often it is called in one run of the network.
    number : int, optional
        Its place among the layers as Keras counts them, from 0 on; none within a nested model.
    is_cut : bool
        Whether everything passes it, so that what lies above can be trained on its output.
    n_weights : int, optional
        How many numbers its weights are; those of a nested model are its layers'.
    tokens : Tokens, optional
        Which of its tokens are which, where that is known.
    """

    shape: tuple[int, ...]
    digest: str
    channel_axis: int = LAST
    n_calls: int = 1
    number: int | None = None
    is_cut: bool = False
    n_weights: int | None = None
    tokens: Tokens | None = None

    @property
    def extent(self) -> int:
        """The smaller of height and width; 1 where it has none."""
        space = list(self.shape)
        if len(space) >= _SHAPE_RANK_WITH_SPACE:
            space.pop(self.channel_axis if self.channel_axis < 0 else self.channel_axis - 1)
        return min(space) if len(self.shape) >= _SHAPE_RANK_WITH_SPACE else 1

    def pool_shape(self, spec: LayerSpec) -> tuple[int, ...]:
        """Return the shape of one row of this layer, pooled as a spec says."""
        return spec.pool_shape(self.shape, channel_axis=self.channel_axis, tokens=self.tokens)


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
        3, or 1 for a network of grey images; others for one of images of other kinds.
    scales_input : bool
        Whether the network changes the values of its pixels before its first weights: what they
        are otherwise prepared with, it does itself.
    takes_integers : bool
        Whether its input is of integers, which no preprocessing gives.
    layers : mapping of str to LayerCard
        In the network's order.
    converter : Converter, optional
        How a preset prepares its images.
    """

    name: str
    size: tuple[int, int]
    channels: int
    scales_input: bool
    takes_integers: bool
    layers: Mapping[str, LayerCard]
    converter: Converter | None = None

    def find_layer(self, name: str, *, backbone: str = "BACKBONE") -> LayerCard:
        """Return a layer's card; an unknown name proposes the nearest.

        ``pixels`` is the image itself. A layer that is called several times is refused: it gives
        several outputs.

        Parameters
        ----------
        name : str
        backbone : str
            What the user calls the backbone, for the remedy.
        """
        if name == PIXELS:
            return self._describe_pixels()
        if name not in self.layers:
            raise UnknownNameError(
                "layer",
                name,
                (PIXELS, *self.layers),
                where=f"of {self.name}",
                remedy=f"list them with: {COMMAND} layers {backbone}",
            )
        card = self.layers[name]
        if card.n_calls > 1:
            raise InputError(
                f"the layer {name!r} of {self.name} is called {card.n_calls} times, and gives"
                " another output each time; name a layer that is called on the one you want"
            )
        return card

    def find_first(self, n_layers: int) -> str:
        """Return the last of the first layers, as Keras counts them: those of ``model.layers``.

        Raises
        ------
        InputError
            The network has fewer, or the last of them has no output.
        """
        for name, card in self.layers.items():
            if card.number == n_layers - 1:
                return name
        most = 1 + max((card.number or 0 for card in self.layers.values()), default=0)
        raise InputError(
            f"{self.name} has no layer that is the last of its first {n_layers}; it has {most}"
            " layers, the first of which is its input"
        )

    def count_above(self, name: str) -> int | None:
        """Count the weights above a layer, up to the last map; None where they are not known.

        What lies behind the last map is a classifier for other classes.
        """
        names = [PIXELS, *self.layers]
        maps = [other for other, card in self.layers.items() if card.extent > 1]
        if name not in names or not maps:
            return None
        above = names[names.index(name) + 1 : names.index(maps[-1]) + 1]
        # A nested model's own layers come after it.
        outside = [other for other in above if not other.startswith(f"{name}/")]
        counts = [self.layers[other].n_weights for other in outside]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def _describe_pixels(self) -> LayerCard:
        if PIXELS in self.layers:
            raise InputError(
                f"{self.name} has a layer of its own called {PIXELS!r}, as the images themselves"
                " are called; rename it in the model"
            )
        return LayerCard(shape=(*self.size, self.channels), digest="")

    def to_json(self) -> str:
        """Write the card as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BackboneCard:
        """Read what `to_json` wrote."""
        facts = json.loads(text)
        cards = {name: _read_layer(layer) for name, layer in facts["layers"].items()}
        converter = facts.get("converter")
        if converter is not None:
            size = converter["size"]
            converter = Converter(**{**converter, "size": size and tuple(size)})
        size = tuple(facts["size"])
        return cls(**{**facts, "size": size, "layers": cards, "converter": converter})


def _read_layer(facts: Mapping[str, Any]) -> LayerCard:
    tokens = facts.get("tokens")
    if tokens is not None:
        tokens = Tokens(**{**tokens, "blocks": tuple(tokens["blocks"])})
    return LayerCard(**{**facts, "shape": tuple(facts["shape"]), "tokens": tokens})
