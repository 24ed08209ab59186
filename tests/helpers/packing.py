"""Folders and archives of real small images, packed by Python's own tools."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def encode_digits(count: int) -> list[bytes]:
    """Return scikit-learn's first digits as PNG files."""
    from sklearn.datasets import load_digits

    return [encode(digit) for digit in load_digits().images[:count]]


def encode(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def fill(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def pack_zip(
    archive: Path, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED
) -> str:
    with zipfile.ZipFile(archive, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(zipfile.ZipInfo(name), content, method)
    return str(archive)


def pack_tar(archive: Path, files: Mapping[str, bytes], *, mode: str = "w") -> str:
    with tarfile.open(archive, mode) as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return str(archive)


def pack_url(name: str, files: Mapping[str, bytes]) -> str:
    """Put files into fsspec's file system in memory."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    for path, content in files.items():
        filesystem.pipe_file(f"/{name}/{path}", content)
    return f"memory://{name}"
