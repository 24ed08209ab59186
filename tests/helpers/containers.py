"""The same files as a folder, a zip, a tar and a URL."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

KINDS = ("folder", "zip", "tar", "memory")


def pack(kind: str, place: Path, paths: Iterable[str], *, folders: Iterable[str] = ()) -> str:
    """Put files, whose bytes are their paths, into a container of a kind; return its location."""
    files = {path: path.encode() for path in paths}
    if kind == "folder":
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        for folder in folders:
            (place / folder).mkdir(parents=True, exist_ok=True)
        return str(place)
    if kind == "memory":
        import fsspec

        for path, content in files.items():
            fsspec.filesystem("memory").pipe_file(f"/{place.parent.name}/{path}", content)
        return f"memory://{place.parent.name}"
    archive = place.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path, content in files.items():
                packed.writestr(path, content)
            for folder in folders:
                packed.writestr(f"{folder}/", b"")
    else:
        with tarfile.open(archive, "w") as packed:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
            for folder in folders:
                member = tarfile.TarInfo(folder)
                member.type = tarfile.DIRTYPE
                packed.addfile(member)
    return str(archive)
