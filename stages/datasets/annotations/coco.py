"""COCO's JSON of instances, as a table: a row for each box, with its category as the label.

The format is that of https://cocodataset.org/#format-data, "Object Detection".
"""

from __future__ import annotations

import json
import logging
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.stages.datasets.table import Table
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError

_log = logging.getLogger(__name__)

# Of pixels; no image is as large.
_MOST = 1e9


class _Boxes:
    """Takes annotations out of the JSON while it is read: an outline each is most of a file."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.categories: list[Any] = []
        self.edges = array("d")
        self.n_crowds = self.n_without = 0

    def take(self, told: dict[str, Any]) -> dict[str, Any] | None:
        """Keep a box, drop what else is told of images, and return everything else as it is."""
        if "bbox" in told and "image_id" in told:
            if told.get("iscrowd"):
                self.n_crowds += 1
                return None
            try:
                x, y, width, height = told["bbox"]
                self.edges.extend((x, y, width, height))
            except (TypeError, ValueError):
                raise _refuse_box(told["image_id"], told["bbox"]) from None
            self.images.append(told["image_id"])
            self.categories.append(told.get("category_id"))
            return None
        if "file_name" in told and "id" in told:
            return {"id": told["id"], "file_name": told["file_name"]}
        if "image_id" in told and not told.get("iscrowd"):
            self.n_without += 1
        return told


def read_coco(file: Path) -> Table:
    """Read the boxes of a COCO file; those of crowds, which are of many things, are left out.

    Raises
    ------
    InputError
        It cannot be read, or is of another format.
    """
    boxes = _Boxes()
    try:
        with file.open(encoding="utf-8") as stream:
            told = json.load(stream, object_hook=boxes.take)
        paths = Texts.of(_look_up(told["images"], "file_name", boxes.images))
        labels = _look_up(told.get("categories", []), "name", boxes.categories)
        written = _write_boxes(boxes)
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}; check the path") from error
    except InputError as error:
        raise InputError(f"{str(file)!r}: {error}; correct it, or export it again") from None
    # On garbage: of JSON, of another file's structure, of numbers that are none.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{str(file)!r} is no COCO file of boxes ({reason}); it needs images (id, file_name),"
            " annotations (image_id, category_id, bbox) and categories (id, name)"
        ) from error
    if not labels:
        raise InputError(f"{str(file)!r} has no boxes; name a file of instances")
    if boxes.n_crowds:
        _log.warning("%r: %d boxes of crowds are left out", str(file), boxes.n_crowds)
    if boxes.n_without:
        _log.warning("%r: %d annotations without a bbox are left out", str(file), boxes.n_without)
    known = {"path": paths, "label": labels, "box": written}
    return Table(name=str(file), known=known, extra={})


def _look_up(told: list[dict[str, Any]], kind: str, ids: list[Any]) -> list[str]:
    """Return what is told of each id, a text: a name of a file, or of a category."""
    found: dict[Any, str] = {}
    for one in told:
        name = one[kind]
        if not isinstance(name, str | int) or name == "":
            raise InputError(f"the id {one['id']!r} has the {kind} {name!r}, which is no text")
        if found.setdefault(one["id"], str(name)) != str(name):
            raise InputError(f"{found[one['id']]!r} and {name!r} have one id, {one['id']!r}")
    unknown = [each for each in ids if each not in found] if found else []
    if unknown:
        raise InputError(f"{len(unknown)} boxes have the id {unknown[0]!r}, which has no {kind}")
    return [found[each] for each in ids]


def _refuse_box(image: object, box: object) -> InputError:
    return InputError(
        f"the image {image!r} has the bbox {str(box)[:80]}; it has to be [x, y, width, height] in"
        " pixels"
    )


def _write_boxes(boxes: _Boxes) -> list[str]:
    numbers = np.frombuffer(boxes.edges).reshape(-1, 4)
    bad = np.flatnonzero(~(np.abs(numbers) < _MOST).all(axis=1))  # NaN is, too
    if len(bad):
        raise _refuse_box(boxes.images[bad[0]], numbers[bad[0]].tolist())
    first = np.rint(numbers[:, :2])
    whole = np.hstack([first, np.rint(numbers[:, :2] + numbers[:, 2:]) - first]).astype(np.int64)
    return [",".join(map(str, box)) for box in whole.tolist()]
