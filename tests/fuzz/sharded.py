"""Shards, boxes and arrays with changed bytes; Arrow's reader in a process that may crash alone."""

from __future__ import annotations

import functools
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import ImageError, StageError
from permafrost.stages.sources.reading import hash_images
from permafrost.stages.sources.tar import list_tar
from tests.fuzz.files import wait_for
from tests.fuzz.mutation import mutate
from tests.fuzz.texts import REFUSED, Target
from tests.helpers.packing import encode_digits, pack_tar
from tests.helpers.sharding import make_samples, make_table, write_arrow, write_parquet

_TOKENS = [
    *(b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"\x00" * 64, b"\xff" * 8, b"\x7f" * 8, b"\x80"),
    *(b"ustar\x00", b"ustar  \x00", b"x", b"L", b"0000000", b"7" * 11, b"20 mtime=1.5\n", b"\x00"),
    *(b".json", b".cls", b"{", b'"label"', b"huggingface", b"null", b"../", b"GNU.sparse.size=1"),
    *(b"\x93NUMPY", b"|u1", b"fortran_order", b"(1,", b"9" * 30, b"(" * 500, b"|O"),
    *(b'"bbox"', b"[1,2,3]", b"-1", b"1e999", b"NaN", b'"id"', b"[" * 100_000, b"true", b"[]"),
]


@functools.cache
def _make_samples() -> Mapping[str, bytes]:
    digits = encode_digits(10)
    with tempfile.TemporaryDirectory(prefix="fuzz-shards-") as name:
        folder = Path(name)
        files = [
            pack_tar(folder / "a.tar", make_samples(3)),
            write_parquet(folder / "a.parquet", make_table(digits)),
            write_arrow(folder / "a.arrow", make_table(digits)),
            write_arrow(folder / "b.arrow", make_table(digits), is_file=True),
        ]
        samples = {Path(file).name: Path(file).read_bytes() for file in files}
    array = io.BytesIO()
    np.save(array, np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    told = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2.5, 3, 4], "iscrowd": 0}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    return samples | {"array": array.getvalue(), "coco": json.dumps(told).encode()}


def _list(file: Path) -> None:
    listed = list_dataset(str(file))
    hash_images(listed.source, listed.manifest.paths, workers=1)


def _read_in_child(content: bytes, folder: Path, *, name: str) -> str:
    file = folder / name
    file.write_bytes(content)
    child = os.fork()
    if child == 0:
        os._exit(_read(file))
    status = wait_for(child)
    if status not in (0, 1):
        raise AssertionError(f"the reader of {name} ended with status {status}")
    return REFUSED if status else "right"


def _read(file: Path) -> int:
    try:
        _list(file)
    except StageError as error:
        return 1 if "\n" not in str(error) else 4
    except BaseException:  # noqa: BLE001 - the parent only sees the status
        import traceback

        traceback.print_exc()
        return 3
    return 0


def _read_tar(content: bytes, folder: Path) -> object:
    """Read a tar, and compare where its members lie with what tarfile says."""
    file = folder / "a.tar"
    file.write_bytes(content)
    try:
        found = [(name, one.start, one.size_bytes) for name, one in list_tar(str(file)) if one]
    except OSError:
        return REFUSED
    with tarfile.open(file, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        files = [one for one in archive if one.isreg() and not one.issparse()]
    expected = [(one.name, one.offset_data, one.size) for one in files]
    if [one for one in found if one in expected] != expected:
        raise AssertionError(f"{found} is not {expected}")
    return _list(file)


def _read_coco(content: bytes, folder: Path) -> object:
    (folder / "a.png").write_bytes(encode_digits(1)[0])
    (folder / "coco.json").write_bytes(content)
    return list_dataset(str(folder), labels=f"coco:{folder / 'coco.json'}")


def _decode(content: bytes, folder: Path) -> object:
    try:
        return decode_image(content, DecodeSpec(height=4, width=4, color="5 channels"))
    except ImageError:
        return REFUSED


def _make_target(name: str, read: Callable[[bytes, Path], object]) -> Target:
    return Target(
        inputs=st.deferred(lambda: mutate([_make_samples()[name]], _TOKENS)),
        read=read,
    )


TARGETS: Mapping[str, Target] = {
    "tar": _make_target("a.tar", _read_tar),
    "Parquet": _make_target("a.parquet", functools.partial(_read_in_child, name="a.parquet")),
    "Arrow stream": _make_target("a.arrow", functools.partial(_read_in_child, name="a.arrow")),
    "Arrow file": _make_target("b.arrow", functools.partial(_read_in_child, name="b.arrow")),
    "COCO": _make_target("coco", _read_coco),
    "array": _make_target("array", _decode),
}
