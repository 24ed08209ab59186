"""What of a network comes after a layer that everything passes: such a layer is a cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from permafrost.stages.backbones.calls import STARTS, Call
from permafrost.stages.backbones.layers import PIXELS
from permafrost.stages.backbones.preprocessing import preprocess
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.cutting import cut_model

# What makes a row of values of a map.
_POOLINGS = (
    *("Flatten", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    "GlobalMaxPooling1D",
)


def find_cuts(calls: Sequence[Call], output: str) -> list[str]:
    """List what every way from the image to a network's output passes.

    Parameters
    ----------
    calls : sequence of Call
        In an order in which each comes after its sources.
    output : str
        The name of the last one.

    Returns
    -------
    list of str
        Names of layers and operations, in that order; those within nested models are left out.
    """
    places = {call.name: place for place, call in enumerate(calls)}
    counts, wanted = set(), [output]
    while wanted:
        name = wanted.pop()
        if name in places and name not in counts:
            counts.add(name)
            wanted += calls[places[name]].sources
    # The last place at which what was computed up to each place is still needed.
    last_use = list(range(len(calls)))
    for place, call in enumerate(calls):
        for source in call.sources if call.name in counts else ():
            if source in places:
                last_use[places[source]] = place
    cuts, needed_until = [], 0
    for place, call in enumerate(calls):
        if call.name not in counts:
            continue
        is_cut = needed_until <= place and call.kind not in STARTS and "/" not in call.name
        cuts += [call.name] if is_cut else []
        needed_until = max(needed_until, last_use[place])
    return cuts


def build_above(
    model: Any, cuts: Sequence[str], layer: str, *, until: str, preprocess_mode: str
) -> Any:
    """Return the layers of a network between two cuts, as a Keras model.

    Parameters
    ----------
    model : keras.Model
        Its layers become those of the other.
    cuts : sequence of str
        Of the model, as `find_cuts` lists them.
    layer : str
        The first cut, whose output the model takes; or ``pixels`` for the image from 0 to 1.
    until : str
        The other, whose output it gives; ``""`` is the one before the network's own pooling or
        flattening, and the last of a network that has neither.
    preprocess_mode : str
        Of images, as `preprocess` takes it.

    Raises
    ------
    UnknownNameError, InputError
        A layer does not exist, is no cut, or nothing lies between the two.
    """
    import keras

    if layer != PIXELS:
        _check_cut(model, layer, cuts)
    end = until or _find_end(model, cuts)
    _check_cut(model, end, cuts)
    if layer != PIXELS and cuts.index(layer) >= cuts.index(end):
        raise InputError(
            f"no layer of {model.name} is left to train between {layer!r} and {end!r}; name an"
            " earlier layer, or a later one with --set until=LAYER"
        )
    if layer != PIXELS:
        cut = cut_model(model, [layer, end], name=model.name)
        return keras.Model(*cut.outputs, name=f"{model.name}_above")
    images = keras.Input(model.inputs[0].shape[1:], name="image")
    prepared = preprocess(keras.ops.round(images * 255.0), mode=preprocess_mode, view="identity")
    cut = cut_model(model, [end], name=model.name)
    whole = keras.Model(cut.inputs[0], cut.outputs[0], name=model.name)
    return keras.Model(images, whole(prepared), name=f"{model.name}_whole")


def _find_end(model: Any, cuts: Sequence[str]) -> str:
    """Return the cut before the last pooling or flattening that is one itself."""
    for place in reversed(range(1, len(cuts))):
        if type(_find_operation(model, cuts[place])).__name__ in _POOLINGS:
            before = _find_operation(model, cuts[place - 1])
            if math.prod(before.output.shape[1:-1]) > 1:
                return cuts[place - 1]
    return cuts[-1] if cuts else ""


def _find_operation(model: Any, name: str) -> Any:
    return next(one for one in _list_operations(model) if one.name == name)


def _list_operations(model: Any) -> Sequence[Any]:
    """List layers and operations in their order; a Sequential has layers alone."""
    operations: Sequence[Any] = getattr(model, "operations", None) or model.layers
    return operations


def _check_cut(model: Any, name: str, cuts: Sequence[str]) -> None:
    """Raise unless `name` is a cut; the nearest ones are named."""
    if name in cuts:
        return
    if not cuts:
        raise InputError(f"{model.name} has no layer that everything passes; no head can train it")
    names = [one.name for one in _list_operations(model)]
    if name not in names and "/" not in name:
        raise UnknownNameError("layer", name, names, where=f"of {model.name}")
    place = names.index(name.split("/", maxsplit=1)[0])
    before = [one for one in cuts if names.index(one) < place][-1:] or ["pixels"]
    after = [one for one in cuts if names.index(one) > place][:1]
    raise InputError(
        f"not everything in {model.name} passes the layer {name!r}, so what lies above it is not"
        f" all; the nearest that can be used: {', '.join(before + after)}"
    )
