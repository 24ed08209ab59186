"""Images of a dataset, small enough for a page; mistakes above all."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

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


def show_gallery(
    title: str, photos: Photos, shown: Sequence[tuple[str, list[str]]], *, note: str = ""
) -> Gallery:
    """Show images of 160 pixels, with what is said under each: their paths, and lines."""
    pictures = []
    for path, lines in shown:
        image = photos.open(path, _SIDE)
        if image is not None:
            image.thumbnail((2 * _SIDE, _SIDE))
        uri = "" if image is None else encode(image, _QUALITY)
        pictures.append(Picture(uri=uri, path=path, lines=lines))
    return Gallery(title=title, pictures=pictures, note=note)


def encode(image: Image, quality: int) -> str:
    """Return an image as WebP in a data URI."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def tell_mistakes(chapter: Chapter, found: Predictions, photos: Photos) -> Section | None:
    """Show the mistakes that it is surest of, and what it is least sure of."""
    if chapter.task == MULTILABEL:
        return None
    tell = _tell_errors if chapter.task == REGRESSION else _tell_classes
    finding, parts = tell(found, photos)
    title = "Where it fails, in pictures"
    return Section(name="pictures", title=title, finding=finding, parts=parts)


def _tell_classes(found: Predictions, photos: Photos) -> tuple[str, list[Gallery]]:
    place = {str(name): number for number, name in enumerate(found.classes)}
    order = np.sort(found.outputs, axis=1)
    sure = order[:, -1]
    margin = sure - order[:, -2] if order.shape[1] > 1 else sure
    is_wrong = np.array([a != b for a, b in zip(found.labels, found.predicted, strict=True)])
    wrong = sorted(np.flatnonzero(is_wrong).tolist(), key=lambda row: -sure[row])
    least = np.argsort(margin, kind="stable").tolist()
    n_sure = int((is_wrong & (sure >= 0.9)).sum())
    finding = (
        f"{count(len(wrong), 'mistake')} among {count(len(sure), 'row')}, {n_sure or 'none'} of"
        " them made with a confidence of 90 % or more"
        f"{': look there for wrong labels first' if n_sure else ''}."
        if wrong
        else f"No mistake among {count(len(sure), 'row')}; the least certain images are below."
    )
    return finding, [
        show_gallery(
            title,
            photos,
            [(found.paths[row], _caption(found, row, place)) for row in rows[:_SHOWN]],
        )
        for title, rows in (("Most confident mistakes", wrong), ("Least certain", least))
    ]


def _caption(found: Predictions, row: int, place: Mapping[str, int]) -> list[str]:
    said, true = found.predicted[row], found.labels[row]
    lines = [f"says {said} ({found.outputs[row, place[said]]:.0%})"]
    share = f" ({found.outputs[row, place[true]]:.0%})" if true in place else ""
    return [*lines, f"is {true}{share}"] if said != true else [*lines, "which is right"]


def _tell_errors(found: Predictions, photos: Photos) -> tuple[str, list[Gallery]]:
    truth, said = (np.array(texts, np.float64) for texts in (found.labels, found.predicted))
    errors = np.abs(said - truth)
    worst = np.argsort(-errors, kind="stable")[:_SHOWN].tolist()
    shown = [
        (found.paths[row], [f"says {show_number(said[row])}", f"is {show_number(truth[row])}"])
        for row in worst
    ]
    first = worst[0]
    finding = f"The largest error is {show_number(errors[first])}, of {found.paths[first]}."
    return finding, [show_gallery("Largest errors", photos, shown)]
