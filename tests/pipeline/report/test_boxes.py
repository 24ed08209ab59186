"""Rows that are boxes are shown as what the network saw of them, cut here by Pillow alone."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import encode, exif, photo
from tests.helpers.reports import call, sweep
from tests.pipeline.report.test_report import read_sections

WIDTH, HEIGHT = 240, 160
SIDE, TILE, ACROSS = 40, 96, 16
# EXIF 6: what is stored is shown turned by a quarter to the right.
TURNED = exif(6)


@pytest.fixture(params=["ignore", "exif"])
def boxed(request, tmp_path, monkeypatch):
    """A sweep over boxes in one photo that asks to be turned; with the picture that they are of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    stored = photo(WIDTH, HEIGHT)
    file = tmp_path / "photos" / "china.png"
    file.write_bytes(encode(stored, "PNG", exif=TURNED))
    seen = stored if request.param == "ignore" else stored.transpose(Image.Transpose.ROTATE_270)
    lefts, tops = (range(0, size - SIDE + 1, 40) for size in seen.size)
    boxes = [(left, top) for left in lefts for top in tops]
    lines = [
        f"photos/china.png,{'upper' if 2 * top < seen.height - SIDE else 'lower'},"
        f'"{left},{top},{SIDE},{SIDE}"'
        for left, top in boxes
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(["path,label,box", *lines]))
    call(
        *("extract", "--images", "boxes.csv", "--backbone", "none", "--size", 8),
        *("--layers", "pixels", "--cache", "cache", "--orient", request.param, "--out", "f.h5"),
    )
    runs = sweep(tmp_path / "f.h5", tmp_path / "runs", "--group", "path", heads="nearest_mean")
    call("report", runs, "--out", tmp_path / "page.html")
    return seen, boxes, tmp_path / "page.html"


def cut(seen: Image.Image, path: str, size: tuple[int, int]) -> np.ndarray:
    left, top, width, height = map(int, path.partition("#xywh=")[2].split(","))
    crop = seen.crop((left, top, left + width, top + height))
    return np.asarray(crop.convert("RGB").resize(size, Image.Resampling.BICUBIC), float)


def read_picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGB")


def test_pictures_and_tiles_are_the_crops(boxed):
    seen, boxes, page = boxed
    section = read_sections(page)["pictures"]
    shown = re.findall(r'<img src="([^"]+)".*?<small>(.*?)</small>', section, re.DOTALL)
    assert len(shown) >= 12
    for uri, path in shown:
        picture = read_picture(uri)
        expected = cut(seen, html.unescape(path), picture.size)
        assert picture.size == (SIDE, SIDE)
        # As far as WebP keeps it.
        assert np.abs(np.asarray(picture, float) - expected).mean() < 12
    text = re.search(r'id="c1-map-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    data = json.loads(text[1])
    assert len(data["path"]) == len(boxes) and data["side"] == TILE
    sheet = np.asarray(read_picture(data["sheets"][0]), float)
    for number, path in enumerate(data["path"]):
        down, across = (TILE * place for place in divmod(number, ACROSS))
        tile = sheet[down : down + TILE, across : across + TILE]
        assert np.abs(tile - cut(seen, path, (TILE, TILE))).mean() < 12
