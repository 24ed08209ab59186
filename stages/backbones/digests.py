"""The digest of each layer: of the whole graph that leads to it, and of its weights."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from permafrost.stages.frameworks.hub_classes import PACKAGE
from permafrost.stages.frameworks.start import KERAS_DEFAULTS, find_keras_settings

# Parts of a layer's configuration that do not change what it computes. The rest is hashed, less
# what is unset, so that an option a later Keras adds does not change every digest. Shapes are told
# apart by their whole names: Reshape's target_shape does change what it computes.
_IRRELEVANT = ("initializer", "regularizer", "constraint", "trainable")
_IRRELEVANT_NAMES = ("batch_shape", "batch_input_shape", "input_shape", "build_config")


def digest_layers(model: Any) -> dict[str, str]:
    """Digest each layer with all that is before it: layers, operations, weights and wiring.

    Keras orders what a model is made of topologically, so that covers all a layer depends on; it
    does not cover what follows, so ``block5_pool`` is the same feature with and without the
    classifier on top.

    Parameters
    ----------
    model : keras.Model
        A layer of a nested model is covered by that model's digest.

    Returns
    -------
    dict of str to str
        Name → SHA-256 in hex, in the model's order.
    """
    import keras

    entries = list_entries(model)
    # A Sequential has layers alone.
    operations = {one.name: one for one in getattr(model, "operations", model.layers)}
    plain = [name for name, one in operations.items() if not isinstance(one, keras.layers.Layer)]
    numbers = {name: number for number, name in enumerate(plain)}
    first_calls = _find_first_calls(model)
    running = hashlib.sha256()
    _add(running, _describe_surroundings(model))
    digests = {}
    for name, operation in operations.items():
        running.update(_to_json(_describe(entries[name], numbers)))
        _add(running, first_calls.get(name))
        if name in numbers:
            continue
        for weight in operation.get_weights():
            running.update(f"{weight.dtype}{weight.shape}".encode())
            running.update(np.ascontiguousarray(weight).data)
        digests[name] = running.hexdigest()
    return digests


def list_entries(model: Any) -> dict[str, dict[str, Any]]:
    """Return the configuration of each layer and operation, with what it is called on.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    dict of str to dict
        In the model's order, by name. A model of a class of its own tells no wiring.
    """
    try:
        entries = model.get_config()["layers"]
    except (NotImplementedError, KeyError, TypeError):  # A subclassed model: its layers tell all.
        entries = [
            {"class_name": type(layer).__name__, "config": layer.get_config()}
            for layer in model.layers
        ]
    return {name_entry(entry): entry for entry in entries}


def name_entry(entry: Mapping[str, Any]) -> str:
    """Return the name of what an entry configures; an operation may have it beside its options.

    A layer of a class of its own may tell none, and is called by its class.
    """
    return str(entry.get("name") or entry["config"].get("name") or entry["class_name"])


def _describe_surroundings(model: Any) -> dict[str, Any]:
    """Return what changes the numbers and is written in no layer's configuration.

    Operations compute in `floatx` what is no float yet, and ask the other settings as they run; so
    do some layers, as Rescaling by channel. Where a Sequential begins is not among its layers.
    """
    import keras

    settings = find_keras_settings().items() - KERAS_DEFAULTS.items()
    # The backend is named by the engine.
    unusual = {name: value for name, value in settings if name != "backend"}
    inputs = model.inputs if isinstance(model, keras.Sequential) else []
    dtypes = {tensor.dtype for tensor in inputs} - {"float32"}
    code = _digest_code(model)
    return (
        unusual | ({"inputs": sorted(dtypes)} if dtypes else {}) | ({"code": code} if code else {})
    )


def _digest_code(model: Any) -> str:
    """Digest the code of layers that are not Keras' own, which another version may change.

    Keras' own, and TensorFlow's, are held to give the same numbers.
    """
    modules = {type(layer).__module__ for layer in model._flatten_layers(include_self=False)}
    of_hub = sorted(name for name in modules if name.split(".")[0] == PACKAGE)
    running = hashlib.sha256()
    for name in of_hub:
        running.update(f"{name} {inspect.getsource(sys.modules[name])}".encode())
    return running.hexdigest() if of_hub else ""


def _find_first_calls(model: Any) -> dict[str, int]:
    """Return which call of a layer runs first, where that is another than its first by number.

    A layer that is called several times gives what its first call returns, and what lies behind
    the layer has a say in which of them that is.
    """
    depths = getattr(model, "_nodes_by_depth", {})
    running_order = [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
    calls: dict[str, list[int]] = {}
    for node in running_order:
        number = node.operation._inbound_nodes.index(node)
        calls.setdefault(node.operation.name, []).append(number)
    return {
        name: sorted(numbers).index(numbers[0])
        for name, numbers in calls.items()
        if numbers[0] != min(numbers)
    }


def _describe(entry: Mapping[str, Any], numbers: Mapping[str, int]) -> Any:
    """Return what an entry computes from what.

    Keras names an operation by how many a process has built: of an operation the place counts.
    """
    if name_entry(entry) in numbers:
        entry = {**entry, "name": None, "config": {**entry["config"], "name": None}}
    inputs = entry.get("inbound_nodes")
    # The names inside a nested model are that model's own.
    return _strip({**entry, "inbound_nodes": None}) | (
        {} if inputs is None else {"inbound_nodes": _strip(inputs, numbers)}
    )


def _strip(node: Any, numbers: Mapping[str, int] = MappingProxyType({})) -> Any:
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return _strip_tensor(node, numbers)
        return {
            key: _strip(value, numbers)
            for key, value in node.items()
            if value is not None
            and key not in _IRRELEVANT_NAMES
            and not str(key).endswith(_IRRELEVANT)
        }
    if isinstance(node, list | tuple):
        return [_strip(value, numbers) for value in node]
    return node if isinstance(node, str | int | float | bool) else str(node)


def _strip_tensor(node: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Leave out the shape of a tensor that passes: digests do not depend on the input's size."""
    source, *place = node["config"]["keras_history"]
    kept = {
        "dtype": node["config"]["dtype"],
        "keras_history": [numbers.get(source, source), *place],
    }
    return {"class_name": node["class_name"], "config": kept}


def _add(running: Any, extra: object) -> None:
    """Hash what few networks have, and nothing for the others."""
    if extra:
        running.update(_to_json(extra))


def _to_json(node: object) -> bytes:
    return json.dumps(node, sort_keys=True).encode()
