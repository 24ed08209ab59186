"""Head folders from someone else: each is a real one in which one file has been replaced."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.stages.datasets.targets import parse_targets
from permafrost.stages.heads import fit_head, parse_settings
from permafrost.stages.matrices.matrix import ArrayMatrix
from tests.helpers.hostile import EVIDENCE, STRANGE_WEIGHTS, rewrite_archive, spoil_weights

Change = Callable[[Path], object]


class Payload:
    """What pickles of this class do when they are read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {EVIDENCE}",)


def write_head(folder: Path, kind: str = "logreg") -> Path:
    """Fit a small head and save it."""
    targets, _ = parse_targets(["a", "b"] * 20, task="classification", names=["x"] * 40)
    values = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    options = {"hidden": "3", "epochs": "1"} if kind == "mlp" else {}
    settings = parse_settings(kind, options)
    head = fit_head(kind, settings, ArrayMatrix(values), targets, train=np.arange(40), seed=0)
    head.save(folder)
    return folder


def _replace(name: str, content: Callable[[], bytes]) -> Change:
    return lambda folder: (folder / name).write_bytes(content())


def _dump(value: object) -> Change:
    def change(folder: Path) -> None:
        import skops.io

        skops.io.dump(value, folder / "head.skops")

    return change


def _say(**changes: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "head.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _pickle_arrays(folder: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.array([Payload()], object), allow_pickle=True)
    file = folder / "head.skops"
    with zipfile.ZipFile(file) as archive:
        arrays = [name for name in archive.namelist() if name.endswith(".npy")]
    rewrite_archive(file, dict.fromkeys(arrays, array.getvalue()))


def _declare_arrays(folder: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**50,)}
    np.lib.format.write_array_header_1_0(header, shape)
    file = folder / "head.skops"
    with zipfile.ZipFile(file) as archive:
        arrays = [name for name in archive.namelist() if name.endswith(".npy")]
    rewrite_archive(file, dict.fromkeys(arrays, header.getvalue()))


def _pack_a_bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / "head.skops", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.npy", bytes(64 * 2**20))


def _name_types(folder: Path) -> None:
    """Name a function where the schema names an estimator."""
    file = folder / "head.skops"
    with zipfile.ZipFile(file) as archive:
        schema = json.loads(archive.read("schema.json"))
    schema |= {"__class__": "system", "__module__": "os", "__loader__": "TypeNode"}
    rewrite_archive(file, {"schema.json": json.dumps(schema).encode()})


def _link_weights(folder: Path) -> None:
    file, weights = folder / "head.keras", folder / "model.weights.h5"
    with zipfile.ZipFile(file) as archive:
        weights.write_bytes(archive.read(weights.name))
    spoil_weights(weights, STRANGE_WEIGHTS["an external link"])
    rewrite_archive(file, {weights.name: weights.read_bytes()})


def _save_lambda(folder: Path) -> None:
    import keras
    from keras import layers

    evil = layers.Lambda(lambda x: [__import__("pathlib").Path("it-ran").touch(), x][1])
    keras.Sequential([layers.Input((4,)), evil, layers.Dense(2)]).save(folder / "head.keras")
    Path(EVIDENCE).unlink(missing_ok=True)  # Keras asked it for a shape.


def _dump_function(folder: Path) -> None:
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    steps = [("scaler", FunctionTransformer(np.exp)), ("estimator", "passthrough")]
    _dump(Pipeline(steps))(folder)


ESTIMATORS: dict[str, Change] = {
    "a pickle": _replace("head.skops", lambda: pickle.dumps(Payload())),
    "pickled arrays": _pickle_arrays,
    "arrays of 2^50 values": _declare_arrays,
    "a zip bomb": _pack_a_bomb,
    "os.system for a type": _name_types,
    "a partial function": _dump(functools.partial(os.system, "true")),
    "a function of scikit-learn's": _dump_function,
    "a list": _dump([1, 2, 3]),
    "no archive": _replace("head.skops", lambda: b"PK\x03\x04" + bytes(100)),
    "10^12 features": _say(n_features=10**12),
    "infinitely many features": _say(n_features=float("inf")),
    "a kind that does not exist": _say(kind="../../etc/passwd"),
    "classes that are numbers": _say(classes=[2, 1]),
    "a setting that does not exist": _say(settings={"__class__": "x"}),
    "brackets": _replace("head.json", lambda: b"[" * 100_000),
    "not a number": _replace("head.json", lambda: b"NaN"),
}
NETWORKS: dict[str, Change] = {
    "a Lambda": _save_lambda,
    "weights elsewhere": _link_weights,
    "10^9 hidden units": _say(settings={"hidden": [10**9, 10**9]}),
    "10^12 inputs": _say(n_features=10**12),
    "a pickle": _replace("head.keras", lambda: pickle.dumps(Payload())),
}
