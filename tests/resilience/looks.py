"""What there is to see of a command's results, but for what took how long."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.views.features import Features
from permafrost.stages.heads import load_head
from tests.helpers.inputs import LAYERS

Look = Mapping[str, object]
# What two right runs may differ in.
_TIMES = ("seconds", "images_per_second")


def look_at_rows(folder: Path) -> Look:
    """Read all of ``features.h5`` with our reader."""
    with Features(folder / "features.h5") as features:
        return {
            "paths": features.paths,
            "labels": features.labels,
            "splits": features.splits,
            **{layer: features.read(layer) for layer in LAYERS.split(",")},
        }


def look_at_features(folder: Path) -> Look:
    """Read all of ``features.h5``, with our reader and with plain h5py, and what failed."""
    found = dict(look_at_rows(folder))
    with h5py.File(folder / "features.h5") as file:
        found |= {f"h5py {layer}": file["features"][layer][()] for layer in LAYERS.split(",")}
    return found | look_at_files("features.h5.failures.csv", folder)


def look_at_merged(folder: Path) -> Look:
    """Read ``features.h5`` and the shards, and count these."""
    n_shards = len(list((folder / "cache").glob("*/*/shard-*.h5")))
    return {**look_at_rows(folder), **look_at_shards(folder), "shards": n_shards}


def look_at_shards(folder: Path) -> Look:
    """Read all rows of all shards with plain h5py, in the order of their digests."""
    found: dict[str, object] = {}
    for feature_set in sorted((folder / "cache").glob("*/*-*")):
        digests, rows = [], []
        for shard in feature_set.glob("shard-*.h5"):
            with h5py.File(shard, locking=False) as file:
                digests += [row.tobytes() for row in file["digest"][()]]
                rows += list(file["features"][()])
        order = sorted(range(len(digests)), key=digests.__getitem__)
        found[f"digests of {feature_set.name}"] = [digests[one] for one in order]
        found[f"rows of {feature_set.name}"] = np.array([rows[one] for one in order])
    return found


def look_at_repaired(folder: Path) -> Look:
    """Read all rows of all shards, the recipes, and what was put aside."""
    found = dict(look_at_shards(folder))
    for file in sorted((folder / "cache").glob("*/*/*/*")):
        found[f"{file.parent.parent.name} {file.name}"] = file.read_bytes()
    for file in sorted((folder / "cache").glob("*/*/recipe.json")):
        found[f"{file.parent.name} {file.name}"] = file.read_bytes()
    return found


def look_at_sweep(folder: Path) -> Look:
    """Read the tables of a sweep and its best model, but not what took how long."""
    tables = ("results.csv", "leaderboard.csv", "folds.csv")
    return {
        **{name: _read_rows(folder / "sweep" / name) for name in tables},
        **look_at_model(folder, "sweep/best"),
    }


def look_at_model(folder: Path, name: str = "model") -> Look:
    """Read what a fit left, but not what took how long."""
    model = folder / name
    metrics = json.loads((model / "metrics.json").read_text())
    return {
        "metrics": {name: value for name, value in metrics.items() if name not in _TIMES},
        "weights": load_head(model / "head").linear_form().weights,
        **look_at_files("*.csv", model),
        **look_at_files("head/*.json", model),
    }


def look_at_network(folder: Path) -> Look:
    """Read what a fit of a network left: every weight, and every epoch but for its seconds."""
    model = folder / "model"
    with zipfile.ZipFile(model / "head" / "head.keras") as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    weights: dict[str, object] = {}
    with h5py.File(content) as file:
        file.visititems(
            lambda name, node: (
                weights.__setitem__(f"weight {name}", node[()])
                if isinstance(node, h5py.Dataset) and "seed" not in name
                else None
            )
        )
    return {
        **weights,
        "epochs": _read_rows(model / "epochs.csv"),
        "training": [path.name for path in model.glob("training*")],
        **look_at_files("predictions.csv", model),
        **look_at_files("head/*.json", model),
    }


def look_at_export(folder: Path) -> Look:
    """Read what is in the ``.keras`` file, but not when it was written."""
    with zipfile.ZipFile(folder / "classifier.keras") as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(texts.pop("metadata.json"))
    return texts | {"version": metadata["keras_version"]}


def look_at_files(names: str, folder: Path) -> Look:
    """Read files."""
    return {file.name: file.read_bytes() for file in sorted(folder.glob(names))}


def _read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return [
            {name: text for name, text in row.items() if name not in _TIMES}
            for row in csv.DictReader(stream)
        ]
