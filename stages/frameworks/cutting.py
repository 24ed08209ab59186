"""A Keras model cut behind the layers that are wanted of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permafrost.stages.errors import UnknownNameError


def cut_model(
    model: Any,
    paths: Sequence[str],
    *,
    name: str,
    inputs: list[Any] | None = None,
    whole: bool = False,
) -> Any:
    """Keep what leads to some layers of a Functional or Sequential model.

    The graph is run through once more, symbolically: unlike the tensors that layers remember, what
    passes by then is of this model, in the order of `stages.backbones.network.Network.trace`.

    Parameters
    ----------
    model : keras.Model
    paths : sequence of str
        Names of layers, ``outer/inner`` for a layer of a nested model.
    name : str
        Of the new model.
    inputs : list of keras.KerasTensor, optional
        As many as the model has, as when the size of the images is settled; its own if not given.
    whole : bool
        Give the model's own outputs as well, after the others.

    Returns
    -------
    keras.Model
        Made of the model's own layers; gives a list.

    Raises
    ------
    UnknownNameError
        There is no such layer.
    """
    import keras

    recording = _Recording(paths, whole=whole)
    copy = keras.models.clone_model(
        keras.Model(model.inputs, model.outputs),  # A Sequential takes no call_function.
        input_tensors=inputs,
        clone_function=lambda layer: layer,
        call_function=recording,
    )
    for path in paths:
        if path not in recording.found:
            raise UnknownNameError("layer", path, recording.found, where=f"of {model.name}")
    outputs = [recording.found[path] for path in paths] + (copy.outputs if whole else [])
    return keras.Model(copy.inputs, outputs, name=name)


class _Recording:
    """Calls layers, and notes what they give, for `cut_model`.

    A nested model that is looked into is cut as well, and called in its own place: with both in
    one file, Keras would not find the weights that they share.
    """

    def __init__(self, paths: Sequence[str], *, whole: bool) -> None:
        self.found: dict[str, Any] = {}
        self._paths = paths
        self._whole = whole
        self._cuts: dict[str, Any] = {}

    def __call__(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        inner = [path for path in self._paths if path.startswith(f"{layer.name}/")]
        own = self._call_cut(layer, inner, args) if inner else []
        if own:
            output = own[0] if len(own) == 1 else own
        if hasattr(output, "shape"):
            self.found.setdefault(layer.name, output)
        return output

    def _call_cut(self, layer: Any, inner: Sequence[str], args: tuple[Any, ...]) -> list[Any]:
        """Return the nested model's outputs, or nothing where nothing beyond it is asked for."""
        from keras import tree

        if layer.name not in self._cuts:
            later = any(path not in self.found for path in self._paths if path not in inner)
            names = [path.removeprefix(f"{layer.name}/") for path in inner]
            self._cuts[layer.name] = cut_model(
                layer, names, name=layer.name, whole=self._whole or later
            )
        outputs: list[Any] = self._cuts[layer.name](tree.flatten(args))
        for path, output in zip(inner, outputs, strict=False):
            self.found.setdefault(path, output)
        return outputs[len(inner) :]
