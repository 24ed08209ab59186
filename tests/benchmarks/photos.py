"""The photos that benchmarks run on: a sample of a folder, each file a different one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

# What all contestants read.
SUFFIXES = {".jpg", ".jpeg", ".png"}

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to copy; the same photo with another number is another file, by its bytes."""

    file: Path
    place: Path
    number: int

    def copy(self, target: Path) -> None:
        """Write it below a folder, where it stood below its own."""
        file = target / self.place
        file.parent.mkdir(parents=True, exist_ok=True)
        # Decoders stop at a picture's end marker; digests do not.
        tail = f"{self.number}".encode() if self.number else b""
        file.with_stem(f"{file.stem}-{self.number}").write_bytes(self.file.read_bytes() + tail)


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder and below; there must be some."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"no images in {str(folder)!r}; name a folder that has some")
    return found


def choose_evenly(items: Sequence[_Item], n_items: int) -> list[_Item]:
    """Choose items that are spread evenly; all of them where there are no more."""
    n = min(n_items, len(items))
    return [items[index * len(items) // n] for index in range(n)]


def list_photos(folder: Path, *, n_repeats: int) -> list[Photo]:
    """List the photos of a folder and below, `n_repeats` different files of each."""
    return [
        Photo(path, path.relative_to(folder), number)
        for number in range(n_repeats)
        for path in list_images(folder)
    ]
