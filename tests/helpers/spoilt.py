"""Digits as pictures in folders, and what is wrong with some of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

SIDE = 48
N_EACH = 40
CLASSES = ("zero", "one", "two")


def draw(number: int) -> Image.Image:
    levels = (load_digits().images[number] * 15).astype(np.uint8)
    return Image.fromarray(levels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def write_digit_folders(root: Path) -> None:
    """Write digits, 40 of each of three classes, `<class>/<number>.png`."""
    target = load_digits().target
    for digit, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in np.flatnonzero(target == digit)[:N_EACH].tolist():
            draw(number).save(root / name / f"{number}.png")


def spoil_digits(folder: Path) -> dict[str, Path]:
    """Spoil some of the pictures; return which."""
    zeros = sorted((folder / "zero").iterdir())
    spoilt = {
        "duplicate": folder / "one" / "copy.900.png",
        "near_duplicate": folder / "zero" / "near.901.jpg",
        "blurred": zeros[5],
        "unreadable": folder / "two" / "broken.902.png",
        "label": folder / "two" / "wrong.903.png",
        "tiny": zeros[6],
    }
    spoilt["duplicate"].write_bytes(zeros[0].read_bytes())
    Image.open(zeros[1]).save(spoilt["near_duplicate"], quality=60)
    Image.open(zeros[5]).filter(ImageFilter.GaussianBlur(5)).save(zeros[5])
    Image.open(zeros[6]).resize((12, 12)).save(zeros[6])
    spoilt["unreadable"].write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    draw(int(np.flatnonzero(load_digits().target == 0)[60])).save(spoilt["label"])
    return spoilt
