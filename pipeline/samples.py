"""Features, targets and splits of one dataset's rows, out of one ``features.h5`` or several."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from cache.errors import NotAViewError
from cache.features import Features
from pipeline.errors import PipelineError
from pipeline.layers import LayerMatrix, StoredLayer, find_layer
from stages.groups import join_groups
from stages.layers import LayerSpec, parse_layer_spec
from stages.matrix import JoinedMatrix, Matrix, Rows
from stages.targets import CLASSIFICATION, Targets, parse_targets

_log = logging.getLogger(__name__)

GROUP_COLUMN = "group"
JOINED_BY = "+"


class FeatureFiles:
    """The rows that all of several ``features.h5`` have, in the order of the first.

    Rows are the same when their images' bytes are. Paths, labels, splits and further columns are
    those of the first file.

    Parameters
    ----------
    files : sequence of Path

    Raises
    ------
    CacheError
        A file is missing or something else.
    PipelineError
        The files have no image in common.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        with ExitStack() as stack:
            self._files = [stack.enter_context(Features(file)) for file in files]
            self._rows = _align(self._files)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows[0])

    @property
    def name(self) -> str:
        """What messages call the files."""
        return " and ".join(repr(str(file.path)) for file in self._files)

    @cached_property
    def paths(self) -> list[str]:
        """POSIX paths of the images."""
        return self.column("path")

    @cached_property
    def splits(self) -> np.ndarray:
        """``"train"``, ``"val"``, ``"test"`` or ``""``: ndarray of str, shape (n,)."""
        return np.array(self.column("split"), np.str_)

    @cached_property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image file: ndarray of uint8, shape (n, 32)."""
        digests: np.ndarray = self._files[0].digests[self._rows[0]]
        return digests

    @cached_property
    def groups(self) -> np.ndarray:
        """Which rows must stay on one side, ndarray of int64, shape (n,).

        Those of one image, and those with the same value in a column ``group``.
        """
        named = [name for name in self._files[0].columns if name.casefold() == GROUP_COLUMN]
        if named:
            return join_groups(self.digests, self.column(named[0]))
        # Numbered by digest, the same rows in another order are drawn into the same folds.
        keys = np.ascontiguousarray(self.digests).view("V32").ravel()
        return np.unique(keys, return_inverse=True)[1]

    @cached_property
    def layers(self) -> list[str]:
        """The layer specs of all files, sorted."""
        return sorted({layer for file in self._files for layer in file.layers})

    def column(self, name: str) -> list[str]:
        """Return a column of the dataset's table."""
        values = self._files[0].column(name)
        return [values[row] for row in self._rows[0]]

    def find_layers(self, expression: str) -> list[StoredLayer]:
        """Find what ``A+B`` stands for: each layer in every file that has it, side by side.

        A pooling that was not extracted is derived from the layer's full map.

        Raises
        ------
        StageError, NotAViewError
            No file has the layer, or it cannot be pooled.
        """
        return [
            layer
            for term in expression.split(JOINED_BY)
            for layer in self._find_term(parse_layer_spec(term))
        ]

    def _find_term(self, spec: LayerSpec) -> list[StoredLayer]:
        found = [
            layer
            for number, file in enumerate(self._files)
            if (layer := find_layer(number, file, spec)) is not None
        ]
        if not found:
            raise NotAViewError(
                f"{self.name} has no layer {str(spec)!r}; it has: {', '.join(self.layers)};"
                " extract it, which computes nothing else"
            )
        return found

    def find_layer(self, file: int, text: str) -> StoredLayer:
        """Find one layer in one of the files."""
        layer = find_layer(file, self._files[file], parse_layer_spec(text))
        if layer is None:
            raise NotAViewError(f"{str(self._files[file].path)!r} has no layer {text!r}")
        return layer

    def has_space(self, layer: str) -> bool:
        """Tell whether a stored layer has height and width, and so can be pooled."""
        holders = [file for file in self._files if layer in file.layers]
        return bool(holders) and len(holders[0].shape(layer)) > 1

    def open_matrix(self, layers: Sequence[StoredLayer]) -> Matrix:
        """Return the layers side by side, a row an image."""
        parts = [
            LayerMatrix(features=self._files[one.file], layer=one, rows=self._rows[one.file])
            for one in layers
        ]
        return parts[0] if len(parts) == 1 else JoinedMatrix(parts)

    def read_origin(self, layer: StoredLayer) -> dict[str, Any]:
        """Return how the layer was asked for, as `FeatureOptions.from_json` reads it."""
        file = self._files[layer.file]
        try:
            return {**json.loads(file.origin), "layers": [str(layer.spec)]}
        except (ValueError, TypeError) as error:
            raise PipelineError(
                f"{str(file.path)!r} does not say how its features were made; extract again"
            ) from error

    def artefact_folder(self, layers: Sequence[StoredLayer]) -> Path | None:
        """Return where things derived from these layers are kept, if there is such a place."""
        return self._files[layers[0].file].folder(layers[0].name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Which rows are for what, and the truth about them.

    Attributes
    ----------
    targets : Targets
        Of all rows, unlabelled ones included.
    train, val, test, folds, unlabelled : ndarray of int64
        Rows: to fit on (neither val nor test); to choose by; to measure on; to cross-validate
        over (all but test); without a label.
    """

    targets: Targets
    train: Rows
    val: Rows
    test: Rows
    folds: Rows
    unlabelled: Rows


def read_labels(
    files: FeatureFiles, *, task: str = CLASSIFICATION, column: str = "label"
) -> LabelledRows:
    """Read the targets and sort out the rows.

    Raises
    ------
    PipelineError
        No row has a label, or none is left to fit on.
    StageError, CacheError
        There is no such column, or a value in it cannot be used.
    """
    targets, known = parse_targets(
        files.column(column), task=task, names=files.paths, column=column
    )
    if not known.any():
        raise PipelineError(f"no row of {files.name} has a {column}; extract again with --labels")
    is_val, is_test = files.splits == "val", files.splits == "test"
    train = np.flatnonzero(known & ~is_val & ~is_test)
    if not len(train):
        raise PipelineError(
            f"every labelled row of {files.name} is in the test or val split,"
            " none is left to fit on; extract again with --split test=0.3"
        )
    return LabelledRows(
        targets=targets,
        train=train,
        val=np.flatnonzero(known & is_val),
        test=np.flatnonzero(known & is_test),
        folds=np.flatnonzero(known & ~is_test),
        unlabelled=np.flatnonzero(~known),
    )


def _align(files: Sequence[Features]) -> list[Rows]:
    """Find, for each file, the rows of the images that all files have, in the first's order."""
    keys = [[digest.tobytes() for digest in file.digests] for file in files]
    places = [{key: row for row, key in reversed(list(enumerate(each)))} for each in keys[1:]]
    shared = [row for row, key in enumerate(keys[0]) if all(key in place for place in places)]
    if len(shared) < len(keys[0]):
        _log.warning(
            "%d of %d images of %s are not in all the other files and are left out",
            len(keys[0]) - len(shared), len(keys[0]), files[0].path,
        )  # fmt: skip
    if not shared:
        others = ", ".join(repr(str(file.path)) for file in files[1:])
        raise PipelineError(
            f"{str(files[0].path)!r} and {others} have no image in common; extract the same images"
            if others
            else f"{str(files[0].path)!r} has no rows; extract some images"
        )
    first = np.array(shared, np.int64)
    return [first, *(np.array([place[keys[0][r]] for r in shared], np.int64) for place in places)]
