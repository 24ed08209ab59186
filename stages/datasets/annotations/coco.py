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


class _Boxes:
    """Takes annotations out of the JSON while it is read: an outline each is most of a file."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.categories: list[Any] = []
        self.edges = array("d")
        self.n_crowds = 0

    def take(self, told: dict[str, Any]) -> dict[str, Any] | None:
        """Keep a box, drop what else is told of images, and return everything else as it is."""
        if "bbox" in told and "image_id" in told:
            if told.get("iscrowd"):
                self.n_crowds += 1
                return None
            x, y, width, height = told["bbox"]
            self.edges.extend((x, y, width, height))
            self.images.append(told["image_id"])
            self.categories.append(told.get("category_id"))
            return None
        if "file_name" in told and "id" in told:
            return {"id": told["id"], "file_name": told["file_name"]}
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
        files = {one["id"]: one["file_name"] for one in told["images"]}
        names = {one["id"]: one["name"] for one in told.get("categories", ())}
        paths = Texts.of(map(files.__getitem__, boxes.images))
        labels = [str(names[each]) for each in boxes.categories]
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}; check the path") from error
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
    known = {"path": paths, "label": labels, "box": _write_boxes(boxes.edges, file)}
    return Table(name=str(file), known=known, extra={})


def _write_boxes(edges: array[float], file: Path) -> list[str]:
    numbers = np.frombuffer(edges).reshape(-1, 4)
    if not (np.abs(numbers) < 1e9).all():  # NaN fails too
        raise InputError(f"{str(file)!r} has boxes of impossible size; export it again")
    first = np.rint(numbers[:, :2])
    whole = np.hstack([first, np.rint(numbers[:, :2] + numbers[:, 2:]) - first]).astype(np.int64)
    return [",".join(map(str, box)) for box in whole.tolist()]
