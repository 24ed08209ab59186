"""The first part of an exported model: from an image to the layers of its backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from permafrost.stages.backbones.calls import LAST
from permafrost.stages.backbones.layers import PIXELS, LayerSpec
from permafrost.stages.backbones.network import KerasNetwork, Network
from permafrost.stages.backbones.preprocessing import preprocess
from permafrost.stages.errors import InputError
from permafrost.stages.frameworks.cutting import cut_model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Stands for a network where the layer is the image itself; `input_shape` is the image's."""

    input_shape: tuple[int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.input_shape[:2]

    def find_channel_axis(self, layer: str) -> int:
        """Return where the channels are."""
        return LAST

    def find_tokens(self, layer: str) -> None:
        """Return nothing, as an image has no tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """One layer of one backbone, as its features were computed.

    Attributes
    ----------
    network : Network or Images
        What `stages.backbones.loading.load_backbone` returned, weights and all. Parts with the same
        one share its layers, and its work where preprocessing and view are the same too.
    preprocess : str
        As `stages.backbones.preprocessing.preprocess` takes it.
    view : str
        As `stages.backbones.preprocessing.turn` takes it.
    dtype : str
        What the features were stored as; ``"float16"`` rounds them in the model as well, so that
        it answers as the head did.
    """

    network: Network | Images
    layer: LayerSpec
    preprocess: str
    view: str = "identity"
    dtype: str = "float32"

    @property
    def pixels(self) -> tuple[str, str]:
        """What is done to the image before the network sees it."""
        return self.preprocess, self.view

    @property
    def sources(self) -> tuple[str, ...]:
        """The layers that it is made of."""
        return self.layer.list_sources(self.network.find_tokens(self.layer.layer))


def share_input_shape(parts: Sequence[ExportPart]) -> tuple[int, ...]:
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


def run_backbones(parts: Sequence[ExportPart], image: Any) -> list[dict[str, Any]]:
    """Return the activations that each part is made of, by the names of their layers."""
    kinds = dict.fromkeys(part.pixels for part in parts)
    pixels = {kind: preprocess(image, mode=kind[0], view=kind[1]) for kind in kinds}
    found: dict[tuple[Network | Images, tuple[str, str], str], Any] = {}
    for number, network in enumerate(dict.fromkeys(part.network for part in parts), start=1):
        own = [part for part in parts if part.network is network]
        layers = list(dict.fromkeys(name for part in own for name in part.sources))
        if isinstance(network, Images):
            # As heads read them, see `stages.matrices.matrix.read_stored`.
            found |= {(network, part.pixels, PIXELS): pixels[part.pixels] / 255.0 for part in own}
            continue
        backbone = _cut_backbone(network, layers, number=number)
        for kind in dict.fromkeys(part.pixels for part in own):
            # Fixed here: layers that augment images must not do so when the model is trained on.
            outputs = backbone(pixels[kind], training=False)
            found |= {(network, kind, x): y for x, y in zip(layers, outputs, strict=True)}
    return [
        {name: found[part.network, part.pixels, name] for name in part.sources} for part in parts
    ]


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
