"""What a network of Keras or TensorFlow is made of: layers and operations, called in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from permafrost.stages.backbones.digests import name_entry

STARTS = ("InputLayer", "Placeholder")
_MODELS = ("Functional", "Model", "Sequential")
LAST = -1
# By the data formats of Keras and of TensorFlow.
CHANNEL_AXES: Mapping[Any, int] = {
    "channels_last": LAST,
    "channels_first": 1,
    "NHWC": LAST,
    "NCHW": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One layer or operation, called on what others gave.

    Attributes
    ----------
    name : str
    kind : str
        Its class in Keras, its type in TensorFlow.
    sources : tuple of str
        Names of the calls whose results it takes.
    channel_axis : int, optional
        Of what it is called on, as its data format says; the batch's axis counts.
    moves : tuple of int
        Of what does nothing but move axes: which of its input's each of its output's is.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    channel_axis: int | None = None
    moves: tuple[int, ...] = ()


def list_calls(
    entries: Iterable[Mapping[str, Any]], *, prefix: str = "", sources: tuple[str, ...] = ()
) -> Iterator[Call]:
    """Yield what a Keras model is made of, nested models taken apart.

    Parameters
    ----------
    entries : iterable of dict
        As `digests.list_entries` gives them.
    prefix : str
        Of the names, for a nested model.
    sources : tuple of str
        What a nested model is called on.
    """
    before = sources
    for entry in entries:
        name = prefix + name_entry(entry)
        kind = entry["class_name"]
        if kind == "InputLayer":
            before = sources
        elif "inbound_nodes" in entry:
            found = dict.fromkeys(_find_sources(entry["inbound_nodes"]))
            before = tuple(prefix + source for source in found)
        if kind in _MODELS:
            last = ""
            for call in list_calls(entry["config"]["layers"], prefix=f"{name}/", sources=before):
                yield call
                last = call.name
            kind, before = "Identity", (last,)
        config = entry["config"]
        yield Call(
            name=name,
            kind=kind,
            sources=before,
            channel_axis=_find_channel_axis(kind, config),
            moves=_find_moves(kind, config),
        )
        # The next of a Sequential.
        before = (name,)


def _find_channel_axis(kind: str, config: Mapping[str, Any]) -> int | None:
    if "layer" not in config:
        return CHANNEL_AXES.get(config.get("data_format"))
    axis = _find_channel_axis("", config["layer"]["config"])
    # What is distributed over time is called on something without that axis.
    return 2 if axis == 1 and kind == "TimeDistributed" else axis


def _find_moves(kind: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    if kind == "Permute":
        return (0, *config["dims"])
    axes = (config.get("axes") if kind == "Transpose" else None) or ()
    return tuple(axis % len(axes) for axis in axes)


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
