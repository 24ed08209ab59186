"""Hostile files, made on the spot: each writer leaves one that would reach beyond itself.

Where a file can do harm at all, it makes `EVIDENCE` in the working folder, or reads what is written
into `SECRET`; whoever opens it checks for both.
"""

from __future__ import annotations

import functools
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

EVIDENCE = "it-ran"
SECRET = "secret.bin"
SIDE = 8
_KERNEL_SHAPE = (3, 3, 3, 2)

Config = dict[str, Any]
Writer = Callable[[Path], Path]


def build_plain() -> Any:
    """Return a small model that nothing is wrong with."""
    import keras
    from keras import layers

    keras.utils.clear_session()
    return keras.Sequential(
        [layers.Input((SIDE, SIDE, 3)), layers.Conv2D(2, 3, name="conv")], name="plain"
    )


def rewrite_archive(file: Path, members: dict[str, bytes]) -> Path:
    """Replace and add members of a zip archive."""
    with zipfile.ZipFile(file) as old:
        content = {name: old.read(name) for name in old.namelist()} | members
    with zipfile.ZipFile(file, "w") as new:
        for name, value in content.items():
            new.writestr(name, value)
    return file


def _save(folder: Path, suffix: str = ".keras") -> Path:
    file = folder / f"model{suffix}"
    file.write_bytes(_save_plain(suffix))
    return file


@functools.cache
def _save_plain(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"plain{suffix}"
        build_plain().save(file)
        return file.read_bytes()


def _with_layer(layer: Config, *, suffix: str = ".keras") -> Writer:
    """Return a writer of a model whose second layer is this."""

    def write(folder: Path) -> Path:
        file = _save(folder, suffix)
        if suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                config = json.loads(archive.read("config.json"))
            config["config"]["layers"][1] = layer
            return rewrite_archive(file, {"config.json": json.dumps(config).encode()})
        with h5py.File(file, "a") as opened:
            config = json.loads(opened.attrs["model_config"])
            config["config"]["layers"][1] = layer
            opened.attrs["model_config"] = json.dumps(config)
        return file

    return write


def _dense(**config: object) -> Config:
    return {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"name": "dense", "units": 2, **config},
        "registered_name": None,
    }


def _layer(class_name: str, module: str | None = "keras.layers", **config: object) -> Config:
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": "evil", **config},
        "registered_name": None,
    }


def _function(name: str, module: str) -> Config:
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }


def _write_lambda(suffix: str) -> Writer:
    def write(folder: Path) -> Path:
        import keras
        from keras import layers

        evil = layers.Lambda(
            lambda x: [__import__("pathlib").Path("it-ran").touch(), x][1],
            output_shape=(SIDE, SIDE, 3),
        )
        file = folder / f"model{suffix}"
        keras.Sequential([layers.Input((SIDE, SIDE, 3)), evil]).save(file)
        return file

    return write


def _with_members(members: dict[str, bytes]) -> Writer:
    return lambda folder: rewrite_archive(_save(folder), members)


def _write_zip_bomb(folder: Path) -> Path:
    file = _save(folder)
    with zipfile.ZipFile(file) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["model.weights.h5"] += bytes(64 * 2**20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name, value in content.items():
            new.writestr(name, value)
    return file


# Weights: how the kernel of the first layer comes from elsewhere.


def _link_outside(group: h5py.Group, name: str, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["kernel"] = np.ones(_KERNEL_SHAPE, np.float32)
    group[name] = h5py.ExternalLink(str(folder / "other.h5"), "/kernel")


def _link_softly(group: h5py.Group, name: str, folder: Path) -> None:
    group.file["elsewhere"] = np.ones(_KERNEL_SHAPE, np.float32)
    group[name] = h5py.SoftLink("/elsewhere")


def _store_outside(group: h5py.Group, name: str, folder: Path) -> None:
    n_bytes = 4 * int(np.prod(_KERNEL_SHAPE))
    group.create_dataset(
        name, _KERNEL_SHAPE, np.float32, external=[(str(folder / SECRET), 0, n_bytes)]
    )


def _map_outside(group: h5py.Group, name: str, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["kernel"] = np.ones(_KERNEL_SHAPE, np.float32)
    layout = h5py.VirtualLayout(_KERNEL_SHAPE, np.float32)
    layout[:] = h5py.VirtualSource(folder / "other.h5", "kernel", _KERNEL_SHAPE)
    group.create_virtual_dataset(name, layout)


def _declare_terabytes(group: h5py.Group, name: str, folder: Path) -> None:
    group.create_dataset(name, (2**20, 2**20), np.float32, chunks=(2**10, 2**10))


def _hold_references(group: h5py.Group, name: str, folder: Path) -> None:
    group.create_dataset(name, data=np.array([group.ref] * 3, object), dtype=h5py.ref_dtype)


def _use_a_plugin(group: h5py.Group, name: str, folder: Path) -> None:
    import hdf5plugin

    group.create_dataset(name, data=np.ones(_KERNEL_SHAPE, np.float32), **hdf5plugin.Zstd())


STRANGE_WEIGHTS: dict[str, Callable[[h5py.Group, str, Path], None]] = {
    "an external link": _link_outside,
    "a soft link": _link_softly,
    "external storage": _store_outside,
    "a virtual dataset": _map_outside,
    "terabytes declared": _declare_terabytes,
    "object references": _hold_references,
    "a plugin's filter": _use_a_plugin,
}


def spoil_weights(file: Path, strange: Callable[[h5py.Group, str, Path], None]) -> Path:
    """Replace the first weight in an HDF5 file."""
    (file.parent / SECRET).write_bytes(bytes(1024))
    with h5py.File(file, "a") as opened:
        found: list[str] = []
        opened.visititems(
            lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None
        )
        parent, _, leaf = found[0].rpartition("/")
        del opened[found[0]]
        strange(opened[parent], leaf, file.parent)
    return file


def _write_strange(strange: Callable[[h5py.Group, str, Path], None], suffix: str) -> Writer:
    def write(folder: Path) -> Path:
        if suffix == ".h5":
            return spoil_weights(_save(folder, suffix), strange)
        file, weights = _save(folder), folder / "model.weights.h5"
        with zipfile.ZipFile(file) as archive:
            weights.write_bytes(archive.read(weights.name))
        return rewrite_archive(file, {weights.name: spoil_weights(weights, strange).read_bytes()})

    return write


_CONFIGS: dict[str, Config] = {
    # CVE-2025-1550: any module and function by its name.
    "os.system": _layer("system", "os", command="touch it-ran"),
    # CVE-2025-8747: Keras' own functions, as one that downloads.
    "get_file as activation": _dense(activation=_function("get_file", "keras.utils")),
    "eval as activation": _dense(activation=_function("eval", "builtins")),
    "get_file as layer": _layer(
        "get_file", "keras.utils", fname="it-ran", origin="file:///etc/passwd"
    ),
    # CVE-2025-9906: the switch of safe mode itself.
    "safe mode off": _dense(activation=_function("enable_unsafe_deserialization", "keras.config")),
    "a nested lambda": _dense(
        activation={"class_name": "__lambda__", "config": {"value": ["", None, None]}}
    ),
    # CVE-2025-12058: vocabularies are read from files and addresses.
    "StringLookup": _layer("StringLookup", vocabulary="/etc/passwd"),
    "IntegerLookup": _layer("IntegerLookup", vocabulary="/etc/passwd"),
    "TextVectorization": _layer("TextVectorization", vocabulary="/etc/passwd"),
    # CVE-2025-49655: a pickle for torch.load.
    "TorchModuleWrapper": _layer("TorchModuleWrapper", module="gASVAAAA"),
    "TFSMLayer": _layer("TFSMLayer", filepath="/tmp"),
    "JaxLayer": _layer("JaxLayer", call_fn=_function("eval", "builtins")),
    "FlaxLayer": _layer("FlaxLayer"),
    "Lambda": _layer("Lambda", function=_function("eval", "builtins")),
    "an operation that takes a function": _layer("Map", "keras.src.ops.core"),
    "a function's class": _layer("SerializableFunction", None),
    "a type's registry": {
        "class_name": "__typespec__",
        "module": "os",
        "spec_name": "system",
        "registered_name": None,
        "config": [],
    },
    "a class of one's own": _layer("Mine", "mine.layers"),
    "a registered class": _dense() | {"registered_name": "mine>Dense"},
    "another package": _layer("Dense", "keras_hub.layers"),
    "no name at all": _layer("Dense") | {"class_name": ["Dense"]},
    "bytecode compiled with the nested model": _layer("Sequential", "keras", layers=[])
    | {"compile_config": {"loss": _function("eval", "builtins")}},
}

MODEL_FILES: dict[str, Writer] = {
    **{f"{name} (.keras)": _with_layer(layer) for name, layer in _CONFIGS.items()},
    # CVE-2025-9905: safe mode does not reach HDF5 files.
    **{f"{name} (.h5)": _with_layer(layer, suffix=".h5") for name, layer in _CONFIGS.items()},
    **{f"{name} in weights ({suffix})": _write_strange(strange, suffix)
       for name, strange in STRANGE_WEIGHTS.items() for suffix in (".keras", ".h5")},
    "real bytecode (.keras)": _write_lambda(".keras"),
    "real bytecode (.h5)": _write_lambda(".h5"),
    # CVE-2025-12060: archives unpacked over other files.
    "a member above": _with_members({"../it-ran": b"!"}),
    "an absolute member": _with_members({"/absolute/it-ran": b"!"}),
    "assets": _with_members({"assets/layers/vocabulary.txt": b"!"}),
    "pickled weights": _with_members({"model.weights.npz": b"\x80\x04."}),
    "a zip bomb": _write_zip_bomb,
    "a configuration 100,000 deep": _with_members({"config.json": b"[" * 100_000}),
    "terabytes of units": _with_layer(_dense(units=10**13)),
}  # fmt: skip
