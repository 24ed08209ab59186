"""Archives with flipped bytes, cut off, and crafted."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from permafrost.stages.errors import InputError
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.source import open_source
from tests.helpers import crafting
from tests.helpers.packing import encode_digits, pack_tar, pack_zip
from tests.resilience.report import Result, sum_up

_N_DAMAGED = 1000  # of each kind
# Far above what any takes, far below a hang or a bomb going off.
_ENOUGH_S = 30


def run(seed: int) -> Result:
    # A warning for each archive would bury the table.
    logging.getLogger("permafrost.stages.sources.members").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [*_try_crafted(Path(folder)), *_try_damaged(Path(folder), seed)]
    return sum_up(
        "zip, tar and npz archives damaged or crafted: refused in one line, or each image read"
        " right or listed with its reason",
        outcomes,
    )


def _try_crafted(folder: Path) -> Iterator[str]:
    for name, content in crafting.TARS.items():
        (folder / "a.tar").write_bytes(content)
        yield _try(folder / "a.tar", f"a tar with {name}", {})
    for name, craft in crafting.ZIPS.items():
        craft(folder / "a.zip")
        yield _try(folder / "a.zip", f"a zip that {name}", None)


def _try_damaged(folder: Path, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    files = {f"c/{number}.png": digit for number, digit in enumerate(encode_digits(5))}
    pixels = rng.integers(0, 256, (5, 16, 16), np.uint8)
    kinds: dict[str, Callable[[Path], object]] = {
        "a.zip": lambda file: pack_zip(file, files),
        "a.tar": lambda file: pack_tar(file, files),
        "a.npz": lambda file: np.savez_compressed(file, x=pixels, y=np.arange(5)),
    }
    for name, pack in kinds.items():
        file = folder / name
        pack(file)
        whole = file.read_bytes()
        for number in range(_N_DAMAGED):
            file.write_bytes(_damage(whole, rng))
            # Only a zip has checksums of its own.
            right = files if name == "a.zip" else None
            yield _try(file, f"{name}, number {number} of seed {seed}", right)


def _damage(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 6)):
        damaged[place] = rng.integers(256)
    return bytes(damaged if rng.random() < 0.7 else damaged[: rng.integers(len(content))])


def _try(file: Path, what: str, right: dict[str, bytes] | None) -> str:
    """Read an archive; "" when that ends as promised.

    Parameters
    ----------
    file : Path
    what : str
    right : dict of str to bytes, optional
        What may be read; anything if not given.
    """
    started_s = time.monotonic()
    try:
        wrong = _read(file, right)
    except InputError as error:
        wrong = "several lines" if "\n" in str(error) else ""
    # Whatever else comes is what is being looked for.
    except Exception as error:  # noqa: BLE001
        wrong = f"{type(error).__name__}: {error}"
    if time.monotonic() - started_s > _ENOUGH_S:
        wrong = f"took more than {_ENOUGH_S} s"
    return f"{what}: {wrong}" if wrong else ""


def _read(file: Path, right: dict[str, bytes] | None) -> str:
    source = open_source(str(file))
    paths = source.list_images()
    digests = hash_images(source, paths, workers=1)
    for path, digest in zip(paths, digests, strict=True):
        readable = isinstance(digest, bytes)
        if readable and right is not None and source.read(path) not in right.values():
            return f"{path} reads as other bytes"
        if readable and (".." in path or path.startswith("/")):
            return f"{path} leads out of the archive"
    return ""
