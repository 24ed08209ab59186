"""A KerasHub model as one flat Functional model: what lies inside its layers gets names of its own.

KerasHub's encoders are layers of layers, whose ``call`` is Python. Called on symbolic tensors it
gives the same operations as on numbers; so that call is made in place of the layer, and its inner
layers stand in the model themselves. A block is known by a layer of its name that passes on what
the block gives. What has weights of its own besides its layers' stays whole, as do those that
symbolic tensors are not enough for.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from permafrost.stages.frameworks.hub_classes import PACKAGE

# Between the names of a layer and of one inside it; Keras has no ``/`` in names.
_INSIDE = "."


def expand_model(model: Any, run: Callable[[Any], Any], images: Any) -> Any:
    """Return a Functional model of what lies inside the layers of a KerasHub model.

    Parameters
    ----------
    model : keras.Model
        Its layers become those of the other, and get other names.
    run : callable
        Calls of the model what is wanted on symbolic images.
    images : keras.KerasTensor
        What the other takes.

    Returns
    -------
    keras.Model
        Called as the other's class is. Layers are named ``encoder.layers_3.mlp``.
    """
    import keras

    named: dict[int, tuple[str, Any]] = {}
    for name, layer in _walk(model):
        named.setdefault(id(layer), (name, layer))
    with warnings.catch_warnings(action="ignore"), _dimensions_unknown():  # Of masks, in Swin.
        with _expanding([one for one in named.values() if _is_replaced(one[1])]):
            # Not before, as some find their way by their names when they are built.
            for name, layer in named.values():
                layer.name = name
            outputs = run(images)
        # Keras numbers names; what a model is does not depend on how many there were before.
        return keras.Model(images, outputs, name=type(model).__name__)


def _walk(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is inside a layer, by its path; Keras' own layers are not looked into."""
    import keras

    is_model = isinstance(layer, keras.Model)
    own = f"{layer.name}_"
    for inner in layer.layers if is_model else layer._layers:
        if isinstance(inner, keras.layers.InputLayer):
            continue
        # A model that was given a name puts it before those of its layers.
        plain = inner.name.removeprefix(own) if is_model else inner.name
        is_encoder = inner is getattr(layer, "vision_encoder", None)
        name = prefix + ("vision_encoder" if is_encoder else plain)
        yield name, inner
        if isinstance(inner, keras.Model) or _is_of_hub(inner):
            yield from _walk(inner, name + _INSIDE)


def _is_of_hub(thing: Any) -> bool:
    return str(thing.__module__).split(".")[0] == PACKAGE


def _is_replaced(layer: Any) -> bool:
    import keras

    if isinstance(layer, keras.layers.Activation):
        return _is_of_hub(layer.activation)  # A function that no file could name.
    # Built with a policy for a name, an Identity cannot be written into a file.
    return isinstance(layer, keras.Model | keras.layers.Identity) or _is_of_hub(type(layer))


@contextmanager
def _expanding(layers: list[tuple[str, Any]]) -> Iterator[None]:
    """Have layers be called by what they are made of, by classes that stand in for theirs."""
    before = [(layer, type(layer)) for _, layer in layers]
    for name, layer in layers:
        replaced = {"__call__": _call_inside(name, type(layer), set())}
        stand_in = type(type(layer).__name__, (type(layer),), replaced)
        object.__setattr__(layer, "__class__", stand_in)
    try:
        yield
    finally:
        for layer, kind in before:
            object.__setattr__(layer, "__class__", kind)


def _call_inside(name: str, kind: Any, called: set[str]) -> Callable[..., Any]:
    from keras import tree

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        given = tree.flatten((args, kwargs))
        if not any(map(_is_symbolic, given)):
            return kind.__call__(layer, *args, **kwargs)
        output = None if _has_weights(layer) else _try_inside(layer, kind, args, kwargs)
        first, *others = output if isinstance(output, tuple) else (output,)
        if not _is_symbolic(first) or _depends_on_batch(tree.flatten(output), given):
            # In whole. A constant is kept as numbers: tensors are of no graph but one.
            args, kwargs = tree.map_structure(_write_out, (args, kwargs))
            return kind.__call__(layer, *args, **kwargs)
        if name not in called and not any(first is one for one in given):
            called.add(name)
            first = _name_output(name, first)
        return (first, *others) if isinstance(output, tuple) else first

    return call


def _try_inside(layer: Any, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a layer's own code makes of symbolic tensors; None where it needs numbers."""
    taken = inspect.signature(kind.call).parameters
    kwargs = {key: value for key, value in kwargs.items() if key != "training" or key in taken}
    try:
        return layer.call(*args, **kwargs)
    except (ValueError, TypeError, NotImplementedError):
        return None


def _has_weights(layer: Any) -> bool:
    """Tell whether a layer has weights of its own, besides those of the layers inside it."""
    import keras

    own = layer._trainable_variables or layer._non_trainable_variables
    return bool(own) and not isinstance(layer, keras.Model)


def _write_out(value: Any) -> Any:
    from keras import ops

    is_constant = ops.is_tensor(value) and not _is_symbolic(value)
    return ops.convert_to_numpy(value) if is_constant else value


def _name_output(name: str, output: Any) -> Any:
    import keras

    return keras.layers.Identity(name=name)(output)


def _is_symbolic(value: object) -> bool:
    import keras

    return isinstance(value, keras.KerasTensor)


def _depends_on_batch(outputs: list[Any], given: list[Any]) -> bool:
    """Tell whether something between is built for a size of batch that is not known."""
    import keras

    pending = [one for one in outputs if _is_symbolic(one)]
    seen = {id(one) for one in given}
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, place, _ = tensor._keras_history
        # Of shapes that are reshaped to, `_dimensions_unknown` has made what a file can hold.
        if not isinstance(operation, keras.Layer) and any(map(_is_open, vars(operation).values())):
            return True
        pending += operation._inbound_nodes[place].input_tensors
    return False


def _is_open(value: object) -> bool:
    """Tell whether a value is a shape with an axis that is not known."""
    return isinstance(value, tuple | list) and any(
        one is None or isinstance(one, _Unknown) for one in value
    )


class _Unknown(int):
    """An axis whose length is not known, as `reshape` takes it; so is what is computed of it.

    Attributes
    ----------
    is_batch : bool
        Whether it is the first axis of what it was asked of.
    """

    is_batch: bool

    def __new__(cls, *, is_batch: bool = False) -> _Unknown:
        unknown = super().__new__(cls, -1)
        unknown.is_batch = is_batch
        return unknown

    def _compute(self, _other: object) -> _Unknown:
        return _Unknown()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _compute
    __floordiv__ = __truediv__ = __mod__ = _compute


@contextmanager
def _dimensions_unknown() -> Iterator[None]:
    """Have KerasHub's code be told -1 of an axis whose length is not known, and not None.

    Of Keras' two modules of operations this changes the public one, which Keras itself does not
    use.
    """
    import keras

    ops = keras.ops
    shape, reshape = ops.shape, ops.reshape

    def tell_shape(x: Any) -> Any:
        if not _is_symbolic(x):
            return shape(x)
        return tuple(
            _Unknown(is_batch=axis == 0) if n is None else n for axis, n in enumerate(shape(x))
        )

    def reshape_rest(x: Any, newshape: Any) -> Any:
        if not _is_symbolic(x):
            return reshape(x, newshape)
        batch, *rest = newshape if isinstance(newshape, tuple | list) else (newshape,)
        known = [n for n in rest if n != -1]
        is_plain = isinstance(batch, _Unknown) and batch.is_batch and len(known) == len(rest) - 1
        if is_plain and None not in x.shape[1:]:
            n_rest = math.prod(x.shape[1:]) // math.prod(known)
            rest = [n_rest if n == -1 else n for n in rest]
        return reshape(x, tuple(n if n is None else int(n) for n in (batch, *rest)))

    ops.shape, ops.reshape = tell_shape, reshape_rest
    try:
        yield
    finally:
        ops.shape, ops.reshape = shape, reshape
