"""What lies in a cache's folders: files, shards, feature sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.views.features import Features


def list_content(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file, by its path."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def find_shards(cache: Path, layer: str = "last-avg") -> list[Path]:
    return sorted(cache.glob(f"*/{layer}/shard-*.h5"))


def read_digests(shard: Path) -> set[bytes]:
    with h5py.File(shard) as file:
        return {digest.tobytes() for digest in file["digest"][()]}


def name_sets(cache: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(cache)) for path in cache.glob("*/*/recipe.json"))


def read_features(file: Path) -> dict[str, np.ndarray]:
    with Features(file) as features:
        return {layer: features.read(layer) for layer in features.layers}
