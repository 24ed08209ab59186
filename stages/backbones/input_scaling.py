"""Does a network scale its pixels itself? Its own graph says so, whatever it is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from permafrost.stages.backbones.digests import name_entry

_STARTS = ("InputLayer", "Placeholder")
_MODELS = ("Functional", "Model", "Sequential")
# Layers of Keras and operations of Keras and TensorFlow that leave the values of pixels what they
# are, where they are not training; geometry is no scaling. RGB turned into BGR is half of a
# preprocessing, so what picks or turns channels is not among them.
_KEEPING = (
    "AlphaDropout AveragePooling2D AvgPool BatchToSpaceND BroadcastTo Cast CenterCrop Concat"
    " ConcatV2 Concatenate CropImages Cropping2D Dropout ExpandDims Flatten GaussianDropout"
    " GaussianNoise Identity IdentityN InputLayer MaxPool MaxPooling2D MirrorPad Pack Pad PadImages"
    " PadV2 Permute RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation"
    " RandomShear RandomTranslation RandomZoom Repeat RepeatVector Reshape Resize ResizeBicubic"
    " ResizeBilinear ResizeNearestNeighbor Resizing SpaceToBatchND SpatialDropout2D Squeeze Stack"
    " StopGradient Tile Transpose UpSampling2D ZeroPadding2D"
)
# The first weights take the pixels as they were given; and a shape is no pixel.
_LEARNING = (
    "BatchMatMulV2 Conv2D Conv2DTranspose Dense DepthwiseConv2D DepthwiseConv2dNative EinsumDense"
    " MatMul SeparableConv2D Shape ShapeN"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One layer or operation, called on what others gave.

    Attributes
    ----------
    name : str
    kind : str
        Its class in Keras, its type in TensorFlow.
    sources : frozenset of str
        Names of the calls whose results it takes.
    """

    name: str
    kind: str
    sources: frozenset[str]


def scales_input(calls: Iterable[Call]) -> bool:
    """Tell whether pixels meet anything that changes their values before the first weights.

    Parameters
    ----------
    calls : iterable of Call
        Of a whole network, inputs first.

    Returns
    -------
    bool
        True as well for what is not known to leave them alone, as a normalization in batches.
    """
    keeping, learning = set(_KEEPING.split()), set(_LEARNING.split())
    raw: set[str] = set()
    for call in calls:
        meets_pixels = not raw.isdisjoint(call.sources)
        if (call.kind in _STARTS and not call.sources) or (meets_pixels and call.kind in keeping):
            raw.add(call.name)
        elif meets_pixels and call.kind not in learning:
            return True
    return False


def list_calls(
    entries: Iterable[Mapping[str, Any]], *, prefix: str = "", sources: frozenset[str] = frozenset()
) -> Iterator[Call]:
    """Yield what a Keras model is made of, nested models taken apart.

    Parameters
    ----------
    entries : iterable of dict
        As `digests.list_entries` gives them.
    prefix : str
        Of the names, for a nested model.
    sources : frozenset of str
        What a nested model is called on.
    """
    before = sources
    for entry in entries:
        name = prefix + name_entry(entry)
        kind = entry["class_name"]
        if kind == "InputLayer":
            before = sources
        elif "inbound_nodes" in entry:
            before = frozenset(prefix + source for source in _find_sources(entry["inbound_nodes"]))
        if kind in _MODELS:
            last = ""
            for call in list_calls(entry["config"]["layers"], prefix=f"{name}/", sources=before):
                yield call
                last = call.name
            kind, before = "Identity", frozenset([last])
        yield Call(name=name, kind=kind, sources=before)
        # The next of a Sequential.
        before = frozenset([name])


def _find_sources(node: Any) -> Iterator[str]:
    """Yield the names of the layers and operations whose tensors are among some arguments."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            for value in node.values():
                yield from _find_sources(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _find_sources(value)
