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
    """The page of a sweep over boxes in photos that ask to be turned; with what they are of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    seen, lines = {}, ["path,label,box"]
    # Four of them, as the boxes of one are kept together in one fold.
    for number in range(4):
        path, stored = f"photos/{number}.png", photo(WIDTH, HEIGHT, which=number % 2)
        stored = stored.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number > 1 else stored
        (tmp_path / path).write_bytes(encode(stored, "PNG", exif=TURNED))
        shown = stored.transpose(Image.Transpose.ROTATE_270)
        seen[path] = shown if request.param == "exif" else stored
        for top in range(0, seen[path].height - SIDE + 1, 40):
            label = "upper" if 2 * top < seen[path].height - SIDE else "lower"
            lines += [f'{path},{label},"{left},{top},{SIDE},{SIDE}"' for left in (0, 60, 120)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    call(
        *("extract", "--images", "boxes.csv", "--backbone", "none", "--size", 8),
        *("--layers", "pixels", "--cache", "cache", "--orient", request.param, "--out", "f.h5"),
    )
    runs = sweep(tmp_path / "f.h5", tmp_path / "runs", heads="nearest_mean")
    call("report", runs, "--out", tmp_path / "page.html")
    return seen, tmp_path / "page.html"


def cut(seen: dict[str, Image.Image], path: str, size: tuple[int, int]) -> np.ndarray:
    file, _, box = path.partition("#xywh=")
    left, top, width, height = map(int, box.split(","))
    crop = seen[file].crop((left, top, left + width, top + height))
    return np.asarray(crop.convert("RGB").resize(size, Image.Resampling.BICUBIC), float)


def read_picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGB")


def test_pictures_and_tiles_are_the_crops(boxed):
    seen, page = boxed
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
    assert len(data["path"]) > 24 and data["side"] == TILE
    sheet = np.asarray(read_picture(data["sheets"][0]), float)
    for number, path in enumerate(data["path"]):
        down, across = (TILE * place for place in divmod(number, ACROSS))
        tile = sheet[down : down + TILE, across : across + TILE]
        assert np.abs(tile - cut(seen, path, (TILE, TILE))).mean() < 12
