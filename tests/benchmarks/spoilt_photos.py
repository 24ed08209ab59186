"""Spoil some of a folder's photos, and see which of them ``audit`` finds, and whom it accuses.

python -m tests.benchmarks.spoilt_photos --images PHOTOS --backbone B --layer SPEC [--seed 0]

Of 1,000 photos: 20 have an identical copy, 20 another one that is resized to 60 %, recompressed at
quality 30 or cropped by 5 %; 10 are blurred (Gaussian, radius 4) and 10 dark (12 % of their light).
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from tests.benchmarks.photos import list_images
from tests.helpers import ROOT

N_IMAGES = 1000
Change = Callable[[Image.Image], Image.Image]


def shrink(image: Image.Image) -> Image.Image:
    """Resize to 60 %."""
    return image.resize((image.width * 6 // 10, image.height * 6 // 10), Image.Resampling.LANCZOS)


def crop(image: Image.Image) -> Image.Image:
    """Cut off 5 % of width and height."""
    x, y = image.width * 5 // 200, image.height * 5 // 200
    return image.crop((x, y, image.width - x, image.height - y))


def keep(image: Image.Image) -> Image.Image:
    """Change nothing but how it is compressed."""
    return image


def blur(image: Image.Image) -> Image.Image:
    """Blur by four pixels."""
    return image.filter(ImageFilter.GaussianBlur(4))


def darken(image: Image.Image) -> Image.Image:
    """Take most of the light away."""
    return ImageEnhance.Brightness(image).enhance(0.12)


def write_spoilt(source: Path, target: Path, *, seed: int) -> dict[str, set[str]]:
    """Write the folder; return the spoilt paths by the kind of issue."""
    photos = list_images(source)
    random.Random(seed).shuffle(photos)
    planted: dict[str, set[str]] = {
        kind: set() for kind in ("duplicate", "near_duplicate", "blurred", "dark")
    }

    def place(photo: Path, prefix: str = "") -> Path:
        file = target / photo.parent.name / f"{prefix}{photo.name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def spoil(photo: Path, kind: str, change: Change, quality: int = 95) -> None:
        file = place(photo, "z-" if kind == "near_duplicate" else "")
        change(Image.open(photo).convert("RGB")).save(file, quality=quality)
        planted[kind].add(file.relative_to(target).as_posix())

    for photo in photos[: N_IMAGES - 40]:
        place(photo).write_bytes(photo.read_bytes())
    for photo in photos[:20]:
        place(photo, "z-").write_bytes(photo.read_bytes())
        planted["duplicate"].add(place(photo, "z-").relative_to(target).as_posix())
    changes = ((shrink, 95), (keep, 30), (crop, 95))
    for number, photo in enumerate(photos[20:40]):
        spoil(photo, "near_duplicate", *changes[number % 3])
    for photo in photos[40:50]:
        spoil(photo, "blurred", blur)
    for photo in photos[50:60]:
        spoil(photo, "dark", darken)
    return planted


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--layer", required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, view, out = Path(name) / "photos", Path(name) / "f.h5", Path(name) / "audit"
        planted = write_spoilt(given.images, folder, seed=given.seed)
        program = [sys.executable, str(ROOT / "run.py")]
        extract = ["extract", "--images", folder, "--backbone", given.backbone, "--split", "none"]
        extract += ["--layers", given.layer, "--cache", Path(name) / "cache", "--out", view]
        audit = ["audit", "--features", view, "--layer", given.layer, "--out", out]
        for arguments in (extract, audit):
            subprocess.run([*program, *map(str, arguments)], check=True, capture_output=True)
        with (out / "issues.csv").open(newline="") as stream:
            issues = list(csv.DictReader(stream))
    for kind in dict.fromkeys([*planted, *(issue["kind"] for issue in issues)]):
        told = {issue["path"] for issue in issues if issue["kind"] == kind}
        spoilt = planted.get(kind, set())
        others = sorted(told - spoilt)
        print(f"{kind:15} found {len(told & spoilt)} of {len(spoilt)}, others {len(others)}"
              f" {', '.join(others[:8])}")  # fmt: skip


if __name__ == "__main__":
    main()
