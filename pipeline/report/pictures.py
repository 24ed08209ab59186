"""Images of a dataset, small enough for a page: mistakes, and sheets of many tiles."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from permafrost.cores import count_cores
from permafrost.pipeline.export.classifier import Predictions
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.parts import Gallery, Picture, Section, show_number
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.units import count
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION
from permafrost.stages.decoding.decode import MAX_PIXELS
from permafrost.stages.decoding.formats import read_picture
from permafrost.stages.errors import ImageError, StageError
from permafrost.stages.sources.source import Reader, open_source

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 160
_SHOWN = 12
_QUALITY = 70
_TILE_QUALITY = 55
# Tiles along each side of a sheet: a browser decodes only the sheets that are looked at.
SHEET_TILES = 16


@dataclass(frozen=True)
class Pictures:
    """The images that paths of a file stand for.

    Attributes
    ----------
    roots : sequence of str
        Where paths start from, the first that is there counts.
    """

    roots: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def _source(self) -> Reader | None:
        for root in self.roots:
            try:
                return open_source(root)
            except StageError:
                continue
        return None

    def open(self, path: str, side: int) -> Image | None:
        """Return an image at least `side` pixels wide and high, if it is; None if unreadable."""
        if self._source is None:
            return None
        try:
            data = self._source.read(path)
            picture = read_picture(
                data,
                max_pixels=MAX_PIXELS,
                choose_scale=lambda size, _: next(
                    (n for n in (8, 4, 2) if min(size) >= 2 * n * side), 1
                ),
            )
            image = picture.image.convert("RGB")
        except (OSError, ImageError, StageError):
            return None
        return image if picture.turn is None else image.transpose(picture.turn)

    def show(self, path: str, lines: Sequence[str]) -> Picture:
        """Return an image of 160 pixels, with what is said under it."""
        image = self.open(path, _SIDE)
        uri = ""
        if image is not None:
            image.thumbnail((2 * _SIDE, _SIDE))
            uri = encode(image, _QUALITY)
        return Picture(uri=uri, path=path, lines=lines)

    def cut_tiles(self, paths: Sequence[str], side: int) -> Iterator[str]:
        """Yield sheets of square tiles as data URIs, row by row, `SHEET_TILES` on a side."""
        from PIL import Image, ImageOps

        def cut(path: str) -> Image.Image:
            image = self.open(path, side)
            blank = (128, 128, 128)
            if image is None:
                return Image.new("RGB", (side, side), blank)
            return ImageOps.fit(image, (side, side))

        with ThreadPoolExecutor(count_cores()) as pool:
            step = SHEET_TILES**2
            for start in range(0, len(paths), step):
                some = paths[start : start + step]
                n_down = -(-len(some) // SHEET_TILES)
                sheet = Image.new("RGB", (SHEET_TILES * side, n_down * side))
                for number, tile in enumerate(pool.map(cut, some)):
                    down, across = divmod(number, SHEET_TILES)
                    sheet.paste(tile, (across * side, down * side))
                yield encode(sheet, _TILE_QUALITY)


def encode(image: Image, quality: int) -> str:
    """Return an image as WebP in a data URI."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def find_pictures(files: FeatureFiles) -> Pictures:
    """Find where the images of files lie: where they were, or beside the file."""
    return Pictures((files.opened[0].place,))


def place_pictures(root: str, folder: Path) -> Pictures:
    """Find where images lie: where they were, or beside the folder that tells of them."""
    places = [root]
    if "://" not in root and not Path(root).is_absolute():
        places += [str(parent / root) for parent in (folder, *folder.absolute().parents)]
    return Pictures(tuple(places))


def tell_mistakes(chapter: Chapter, found: Predictions, pictures: Pictures) -> Section | None:
    """Show the mistakes that it is surest of, and what it is least sure of."""
    if chapter.task == REGRESSION:
        return _tell_errors(found, pictures)
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
        return [pictures.show(found.paths[row], _caption(found, row, place)) for row in rows]

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


def _tell_errors(found: Predictions, pictures: Pictures) -> Section:
    truth, said = (np.array(texts, np.float64) for texts in (found.labels, found.predicted))
    worst = np.argsort(-np.abs(said - truth), kind="stable")[:_SHOWN].tolist()
    shown = [
        pictures.show(
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
