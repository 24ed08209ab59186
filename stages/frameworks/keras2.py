"""HDF5 model files of Keras 2, written as Keras 3 reads them."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from permafrost.stages.frameworks.weights_file import HDF5_SUFFIXES, MODEL_SUFFIX, read_member

# What Keras 2 writes of layers that take it no longer, and the values that say nothing.
_OBSOLETE = {
    "groups": (1,),
    "kernel_constraint": (None,),
    "kernel_regularizer": (None,),
    "time_major": (False,),
}
# What initializes weights that are then loaded is of no account.
_IGNORED = ("implementation", "kernel_initializer")


def find_version(path: Path) -> str:
    """Return the version of Keras that saved a model, if the file says; otherwise an empty text."""
    import h5py

    with suppress(Exception):  # Whatever parsers raise: it says nothing.
        if path.suffix == MODEL_SUFFIX:
            return str(json.loads(read_member(path, "metadata.json"))["keras_version"])
        with h5py.File(path, "r", locking=False) as file:
            version = file.attrs["keras_version"]
            return version.decode() if isinstance(version, bytes) else str(version)
    return ""


@contextmanager
def converting_keras_2(path: Path) -> Iterator[Path]:
    """Give a model file as Keras 3 reads it: a copy with another configuration, or itself."""
    import h5py

    if path.suffix not in HDF5_SUFFIXES or not re.match("[12][.]", find_version(path)):
        yield path
        return
    with h5py.File(path, "r", locking=False) as file:
        text = file.attrs.get("model_config")
    config = json.loads(text) if isinstance(text, str | bytes) else None
    converted = _convert(config)
    slashed = {name for name in _list_names(converted) if "/" in name}
    converted = _rename(converted, slashed)
    if converted == config:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+", locking=False) as file:
            file.attrs["model_config"] = json.dumps(converted)
        yield copy


def _convert(node: Any) -> Any:
    """Return a configuration, converted wherever it names a layer."""
    if isinstance(node, list):
        return [_convert(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: _convert(value) for key, value in node.items()}
    config = node.get("config")
    if node.get("class_name") == "Sequential":
        layers = config if isinstance(config, list) else (config or {}).get("layers")
        if isinstance(layers, list):
            named = config if isinstance(config, dict) else {"name": "sequential"}
            node["config"] = {**named, "layers": _begin(layers)}
    elif isinstance(config, dict):
        node["config"] = _drop_obsolete(str(node.get("class_name")), config)
    return node


def _begin(layers: list[Any]) -> list[Any]:
    """Have a Sequential begin with its input, which Keras 2 wrote into the first layer."""
    first = layers[0] if layers and isinstance(layers[0], dict) else {}
    config = first.get("config")
    if not isinstance(config, dict) or first.get("class_name") == "InputLayer":
        return layers
    shape = config.get("batch_input_shape")
    if shape is None:
        return layers
    kept = {key: value for key, value in config.items() if key != "batch_input_shape"}
    start = {
        "class_name": "InputLayer",
        "config": {"batch_input_shape": shape, "name": f"{config.get('name')}_input"},
    }
    return [start, {**first, "config": kept}, *layers[1:]]


def _drop_obsolete(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    import keras

    kind = getattr(keras.layers, class_name, None)
    if not inspect.isclass(kind):
        return config
    taken = inspect.signature(kind.__init__).parameters
    return {
        key: value
        for key, value in config.items()
        if key in taken or not (key in _IGNORED or value in _OBSOLETE.get(key, ()))
    }


def _list_names(node: Any) -> Iterator[str]:
    """Yield the names of all layers."""
    if isinstance(node, dict):
        if "class_name" in node and isinstance(node.get("config"), dict):
            yield str(node["config"].get("name", ""))
        node = list(node.values())
    for one in node if isinstance(node, list) else ():
        yield from _list_names(one)


def _rename(node: Any, slashed: set[str]) -> Any:
    """Write ``conv1/bn``, as Keras 2 called layers of DenseNet, as Keras 3 calls them."""
    if isinstance(node, dict):
        return {key: _rename(value, slashed) for key, value in node.items()}
    if isinstance(node, list):
        return [_rename(one, slashed) for one in node]
    return node.replace("/", "_") if isinstance(node, str) and node in slashed else node
