"""The formats, besides Keras' own, that Keras writes a model in for other programs to run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.stages.errors import InputError, UnknownNameError

KERAS = "keras"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of models.

    Attributes
    ----------
    name : str
        What Keras calls it.
    companion : str
        The suffix of a second file, of weights, if there is one.
    """

    name: str
    suffix: str
    packages: tuple[str, ...] = ()
    companion: str = ""


FORMATS = {
    KERAS: Format(name=KERAS, suffix=".keras"),
    "onnx": Format(name="onnx", suffix=".onnx", packages=("onnx", "tf2onnx")),
    "saved_model": Format(name="tf_saved_model", suffix=""),
    "litert": Format(name="litert", suffix=".tflite"),
    "openvino": Format(name="openvino", suffix=".xml", packages=("openvino",), companion=".bin"),
}


def choose_format(file: Path, asked: str | None) -> str:
    """Return the format that is asked for, or that of which a file name has the suffix.

    Raises
    ------
    UnknownNameError
        There is no such format.
    InputError
        The suffix is another one, or the format's package is missing.
    """
    by_suffix = {one.suffix: name for name, one in FORMATS.items() if one.suffix}
    if asked is None and file.suffix not in by_suffix:
        raise InputError(
            f"cannot export to {str(file)!r}; name a file that ends in {', '.join(by_suffix)},"
            " or a folder with --format saved_model"
        )
    name = by_suffix[file.suffix] if asked is None else asked
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    chosen = FORMATS[name]
    if chosen.suffix and file.suffix != chosen.suffix:
        raise InputError(
            f"cannot export {name} to {str(file)!r}; name a file that ends in {chosen.suffix}"
        )
    if not chosen.suffix and file.suffix in by_suffix:
        raise InputError(f"{name} is a folder: {str(file)!r} names a file; drop {file.suffix}")
    missing = [one for one in chosen.packages if importlib.util.find_spec(one) is None]
    if missing:
        raise InputError(
            f"--format {name} needs the package {' and '.join(missing)};"
            f' get it with: pip install "permafrost[{name}]"'
        )
    return name


def write_format(model: Any, path: Path, name: str) -> None:
    """Write a Keras model in one of `FORMATS` but Keras' own.

    ``onnx``, ``litert`` and ``openvino`` are the same bytes each time, but not ``saved_model``:
    TensorFlow numbers its parts as they come.

    Raises
    ------
    InputError
        Keras cannot write the model in that format.
    """
    import keras

    shape = tuple(axis or 1 for axis in model.input_shape)
    try:
        with _quietly():
            _fix_figures(model)
            model(np.zeros(shape, model.inputs[0].dtype))  # One that was never called has no trace.
            model.export(str(path), format=FORMATS[name].name, verbose=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"Keras {keras.__version__} cannot write this model as {name} ({reason}); export it as"
            " a .keras file"
        ) from error
    if name == "onnx":
        _number_names(path)


def _fix_figures(model: Any) -> None:
    """Make means and variances of normalisations constants: an ONNX file would ask for them."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _fix_figures(layer)
        elif isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what converters print off the command line, which is for the figures."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _number_names(path: Path) -> None:
    """Name what is computed in an ONNX file by its place: tf2onnx counts as it happens to."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    names = {one.name: one.name for one in graph.input}
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for values in (node.input, node.output):
            for place, value in enumerate(values):
                values[place] = names.setdefault(value, f"value_{len(names)}") if value else ""
    for one in (*graph.initializer, *graph.output, *graph.value_info):
        one.name = names.setdefault(one.name, f"value_{len(names)}")
    constants = sorted(graph.initializer, key=lambda one: int(one.name.rpartition("_")[2]))
    del graph.initializer[:]
    graph.initializer.extend(constants)
    del graph.value_info[:]
    graph.name, graph.doc_string = "classifier", ""
    for one in (*graph.input, *graph.output):
        one.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
