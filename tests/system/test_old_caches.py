"""Caches that earlier versions wrote: what is right in them is served, and nothing computed again.

``cache_without_rooms.zip`` holds six photos, a network and the cache that the last version with
top-level packages ``pipeline``, ``stages`` and ``cache`` made of them, without its index.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from tests.helpers.answers import Command

OPTIONS = {
    "first,last:avg": (),
    "last:max": ("--dtype", "float16", "--view", "hflip", "--compression", "zstd"),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with ZipFile(Path(__file__).parent / "cache_without_rooms.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def read_shards(cache: Path, layer: str) -> dict[bytes, np.ndarray]:
    """Read a layer's rows by the digests of their images, with plain h5py."""
    (shard,) = cache.glob(f"*/{layer}/shard-*.h5")
    with h5py.File(shard) as file:
        digests = map(bytes, file["digest"][:])
        return dict(zip(digests, file["features"][:], strict=True))


@pytest.mark.parametrize("layers", OPTIONS)
def test_a_cache_of_an_earlier_version_is_served_without_computing_anything(
    layers: str, old: Path, command: Command
) -> None:
    out = old / "features.h5"
    answer = command(
        *("extract", "--images", old / "photos", "--backbone", old / "small.keras", "--json"),
        *("--layers", layers, "--cache", old / "cache", "--out", out, *OPTIONS[layers]),
    )
    figures = answer.figures
    assert (figures["images"], figures["computed"], figures["reused"]) == (6, 0, 6)
    with h5py.File(out, locking=False) as file:
        digests = list(map(bytes, file["images/digest"][:]))
        for layer in layers.split(","):
            folder = layer.replace(":", "-") if ":" in layer else f"{layer}-none"
            rows = read_shards(old / "cache", folder)
            expected = np.stack([rows[digest] for digest in digests])
            np.testing.assert_array_equal(file["features"][layer][:], expected)
