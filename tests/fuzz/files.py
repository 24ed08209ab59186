"""HDF5 files with flipped and lost bytes, read by processes that may crash or hang alone."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from permafrost.cache.errors import CacheError
from permafrost.cache.shards.reader import read_digests
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.views.features import Features
from tests.fuzz.mutation import mutate
from tests.fuzz.texts import REFUSED, Target
from tests.helpers.hostile_hdf5 import LAYER, RECIPE, write_cache

TIME_LIMIT_S = 20.0
_OUTCOMES = {0: "right", 1: REFUSED}
_HDF5_TOKENS = [
    *(b"OHDR", b"OCHK", b"FRHP", b"BTHD", b"FADB", b"EAHD", b"\x89HDF\r\n\x1a\n", b"\xff" * 8),
    *(b"\x00" * 64, b"\xff" * 64, b"shard-", b"/etc/passwd", b"\x01", b"\x80", b"\x7f" * 8),
]


@functools.cache
def _make_samples() -> tuple[tempfile.TemporaryDirectory[str], dict[str, bytes]]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-hdf5-")
    view, shard = write_cache(Path(folder.name))
    values, _ = write_cache(Path(folder.name) / "copy", materialize=True)
    return folder, {
        "view": view.read_bytes(),
        "values": values.read_bytes(),
        "shard": shard.read_bytes(),
    }


def read_in_child(kind: str, content: bytes, folder: Path) -> str:
    """Read a changed file beside its intact ones in a process of its own.

    Returns
    -------
    str
        ``"right"`` or ``"refused"``.

    Raises
    ------
    AssertionError
        It was read wrong, or with an error that is not ours; it crashed or hung its reader.
    """
    view, shard = write_cache(folder) if not (folder / "features.h5").exists() else _find(folder)
    samples = _make_samples()[1]
    view.write_bytes(samples["values" if kind == "values" else "view"])
    shard.write_bytes(samples["shard"])
    (shard if kind == "shard" else view).write_bytes(content)
    child = os.fork()
    if child == 0:
        os._exit(_read(view, shard))
    status = wait_for(child)
    if status not in _OUTCOMES:
        raise AssertionError(f"the reader of a {kind} ended with status {status}")
    return _OUTCOMES[status]


def _find(folder: Path) -> tuple[Path, Path]:
    return folder / "features.h5", next(folder.rglob("shard-*.h5"))


def wait_for(child: int) -> int:
    deadline_s = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < deadline_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the reader hung for {TIME_LIMIT_S:g} s")


def _read(view: Path, shard: Path) -> int:
    """Return 0 when all is as it was written, 1 when it is refused; anything else is a failure."""
    try:
        digests = read_digests(shard, recipe_key(RECIPE))
        with Features(view) as features:
            found = features.read(LAYER)
            texts = [features.paths, features.labels, features.column("age"), features.splits]
            recipe, root = features.recipe(LAYER), features.root
    except CacheError as error:
        return 1 if "\n" not in str(error) else 4
    except BaseException:  # noqa: BLE001 - the parent only sees the status
        import traceback

        traceback.print_exc()
        return 3
    expected = np.random.default_rng(0).standard_normal(found.shape).astype(np.float32)
    names = [f"{number}.jpg" for number in range(len(found))]
    is_right = (
        np.array_equal(found, expected)
        and texts == [names, names, names, [""] * len(names)]
        and (recipe, root) == (RECIPE, "photos")
        and len(digests) == len(found)
    )
    return 0 if is_right else 5


def _make_target(kind: str) -> Target:
    return Target(
        inputs=st.deferred(lambda: mutate([_make_samples()[1][kind]], _HDF5_TOKENS)),
        read=lambda content, folder: read_in_child(kind, content, folder),
    )


TARGETS: Mapping[str, Target] = {
    f"HDF5 {kind}": _make_target(kind) for kind in ("view", "values", "shard")
}
