"""What the layers of a Keras model give while it is traced, those of nested models too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def walk_layers(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the layers with their names, ``outer/inner`` for one of a nested model, in order."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from walk_layers(layer, f"{prefix}{layer.name}/")


@contextmanager
def bringing_tensors_along(model: Any) -> Iterator[None]:
    """Put tensors that layers hold besides their weights into the graph that is being built.

    Normalization, with which every EfficientNet and ConvNeXt begins, computes its mean when it is
    built, and a graph takes no tensor from outside.
    """
    import tensorflow as tf

    held = [
        (layer, name, value)
        for layer in {id(layer): layer for _, layer in walk_layers(model)}.values()
        for name, value in vars(layer).items()
        if isinstance(value, tf.Tensor)
    ]
    for layer, name, value in held:
        setattr(layer, name, tf.constant(value.numpy()))
    try:
        yield
    finally:
        for layer, name, value in held:
            setattr(layer, name, value)


@contextmanager
def recording(
    layers: dict[str, Any], n_calls: Counter[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Collect what each layer returns while the network is traced.

    This reaches the layers of nested models, which no ``keras.Model(inputs, outputs)`` can: their
    tensors belong to the inner model's own graph.
    """
    calls = Counter() if n_calls is None else n_calls
    outputs: dict[str, Any] = {}
    # One may be part of two models, and one's call may be replaced already.
    before = {layer: vars(layer).get("call") for layer in layers.values()}
    for name, layer in layers.items():
        layer.call = _record(layer.call, name, outputs, calls)
    try:
        yield outputs
    finally:
        for layer, call in before.items():
            if call is None:
                del layer.call
            else:
                layer.call = call


def _record(
    call: Callable[..., Any], name: str, outputs: dict[str, Any], calls: Counter[str]
) -> Callable[..., Any]:
    def recording_call(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        calls[name] += 1
        # A layer with several outputs gives none.
        if hasattr(output, "shape") and name not in outputs:
            outputs[name] = output
        return output

    return recording_call
