"""Images of a dataset, small enough for a page: mistakes, and sheets of many tiles."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from permafrost.cores import count_cores
from permafrost.pipeline.export.classifier import Predictions
from permafrost.pipeline.looking.photos import Photos
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.parts import Gallery, Picture, Section, show_number
from permafrost.pipeline.units import count
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 160
_SHOWN = 12
_QUALITY = 70
_TILE_QUALITY = 55
# Tiles along each side of a sheet: a browser decodes only the sheets that are looked at.
SHEET_TILES = 16


def show_picture(photos: Photos, path: str, lines: Sequence[str]) -> Picture:
    """Return an image of 160 pixels, with what is said under it."""
    image = photos.open(path, _SIDE)
    uri = ""
    if image is not None:
        image.thumbnail((2 * _SIDE, _SIDE))
        uri = encode(image, _QUALITY)
    return Picture(uri=uri, path=path, lines=lines)


def cut_tiles(photos: Photos, paths: Sequence[str], side: int) -> Iterator[str]:
    """Yield sheets of square tiles as data URIs, row by row, `SHEET_TILES` on a side."""
    from PIL import Image

    with ThreadPoolExecutor(count_cores()) as pool:
        step = SHEET_TILES**2
        for start in range(0, len(paths), step):
            some = paths[start : start + step]
            n_down = -(-len(some) // SHEET_TILES)
            sheet = Image.new("RGB", (SHEET_TILES * side, n_down * side))
            for number, tile in enumerate(pool.map(photos.cut, some, repeat(side))):
                down, across = divmod(number, SHEET_TILES)
                sheet.paste(tile, (across * side, down * side))
            yield encode(sheet, _TILE_QUALITY)


def encode(image: Image, quality: int) -> str:
    """Return an image as WebP in a data URI."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def tell_mistakes(chapter: Chapter, found: Predictions, photos: Photos) -> Section | None:
    """Show the mistakes that it is surest of, and what it is least sure of."""
    if chapter.task == REGRESSION:
        return _tell_errors(found, photos)
    if chapter.task == MULTILABEL:
        return None
    place = {str(name): number for number, name in enumerate(found.classes)}
    order = np.sort(found.outputs, axis=1)
    sure = order[:, -1]
    margin = sure - order[:, -2] if order.shape[1] > 1 else sure
    is_wrong = np.array([a != b for a, b in zip(found.labels, found.predicted, strict=True)])
    wrong = sorted(np.flatnonzero(is_wrong).tolist(), key=lambda row: -sure[row])
    least = np.argsort(margin, kind="stable")[:_SHOWN].tolist()

    def show(rows: Sequence[int]) -> list[Picture]:
        return [show_picture(photos, found.paths[row], _caption(found, row, place)) for row in rows]

    n_sure = int((is_wrong & (sure >= 0.9)).sum())
    finding = (
        f"{count(len(wrong), 'mistake')} among {count(len(sure), 'row')}, {n_sure or 'none'} of"
        " them made with a confidence of 90 % or more"
        f"{': look there for wrong labels first' if n_sure else ''}."
        if wrong
        else f"No mistake among {count(len(sure), 'row')}; the least certain images are below."
    )
    galleries = [Gallery(title="Least certain", pictures=show(least))]
    if wrong:
        title = "Most confident mistakes"
        galleries.insert(0, Gallery(title=title, pictures=show(wrong[:_SHOWN])))
    return Section(
        name="pictures", title="Where it fails, in pictures", finding=finding, parts=galleries
    )


def _caption(found: Predictions, row: int, place: Mapping[str, int]) -> list[str]:
    said, true = found.predicted[row], found.labels[row]
    lines = [f"says {said} ({found.outputs[row, place[said]]:.0%})"]
    share = f" ({found.outputs[row, place[true]]:.0%})" if true in place else ""
    return [*lines, f"is {true}{share}"] if said != true else [*lines, "which is right"]


def _tell_errors(found: Predictions, photos: Photos) -> Section:
    truth, said = (np.array(texts, np.float64) for texts in (found.labels, found.predicted))
    worst = np.argsort(-np.abs(said - truth), kind="stable")[:_SHOWN].tolist()
    shown = [
        show_picture(
            photos,
            found.paths[row],
            [f"says {show_number(said[row])}", f"is {show_number(truth[row])}"],
        )
        for row in worst
    ]
    first = worst[0]
    finding = (
        f"The largest error is {show_number(abs(said[first] - truth[first]))}, of"
        f" {found.paths[first]}."
    )
    return Section(
        name="pictures",
        title="Where it fails, in pictures",
        finding=finding,
        parts=[Gallery(title="Largest errors", pictures=shown)],
    )
