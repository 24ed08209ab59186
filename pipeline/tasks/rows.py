"""Features, targets and splits of one dataset's rows, out of one ``features.h5`` or several."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from permafrost.cache.errors import NotAViewError
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.tasks.above import BackboneAbove, find_index_file, name_layer
from permafrost.pipeline.tasks.layer_matrix import (
    LayerMatrix,
    StoredLayer,
    expand_layer,
    find_layer,
    list_layers,
    list_own_names,
)
from permafrost.pipeline.tasks.views import list_views
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.datasets.groups import find_group_column, join_groups
from permafrost.stages.datasets.split_names import check_splits
from permafrost.stages.datasets.targets import CLASSIFICATION, Targets, find_classes, parse_targets
from permafrost.stages.matrices.joined import JoinedMatrix, StackedMatrix
from permafrost.stages.matrices.matrix import Matrix, Rows, Store
from permafrost.warn import warn_once

JOINED_BY = "+"


class FeatureFiles:
    """The rows that all of several ``features.h5`` have, in the order of the first.

    Rows are the same when their images' bytes are. Each column of their table is that of the first
    file which has anything in it.

    Parameters
    ----------
    group : str, optional
        The column to keep together by, instead of ``group``.
    open_file : callable, optional
        Another one gives files that are still to be written.
    classes : sequence of str, optional
        Only the rows with one of these in a column.
    column : str
        That column.

    Raises
    ------
    UnknownNameError
        No row has one of the classes.
    CacheError
        A file is missing or something else.
    PipelineError
        The files have no image in common.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        group: str | None = None,
        open_file: Callable[[Path], AbstractContextManager[Features]] = Features,
        classes: Sequence[str] | None = None,
        column: str = "label",
    ) -> None:
        self.group = group
        with ExitStack() as stack:
            self._files = [stack.enter_context(open_file(file)) for file in files]
            self._rows = _align(self._files)
            self._columns: dict[str, list[str]] = {}
            if classes is not None:
                rows = find_classes(self.column(column), classes, where=f"in {self.name}")
                self._rows = [own[rows] for own in self._rows]
                self._columns.clear()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows[0])

    @property
    def opened(self) -> list[Features]:
        """The files themselves, in the order given."""
        return self._files

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

        Those of one image, and those with the same value in the column to keep together by.
        """
        named = find_group_column({name: [name] for name in self.columns}, self.group)
        if named is not None:
            return join_groups(self.digests, self.column(named[0]))
        # Numbered by digest, the same rows in another order are drawn into the same folds.
        keys = np.ascontiguousarray(self.digests).view("V32").ravel()
        return np.unique(keys, return_inverse=True)[1]

    @cached_property
    def columns(self) -> list[str]:
        """The further columns of all files, sorted."""
        return sorted({name for file in self._files for name in file.columns})

    @cached_property
    def layers(self) -> list[str]:
        """The layer specs of all files, sorted."""
        return sorted({layer for file in self._files for layer in list_layers(file)})

    def column(self, name: str) -> list[str]:
        """Return a column of the dataset's table; a warning says where the files disagree."""
        if name not in self._columns:
            self._columns[name] = self._read_column(name)
        return self._columns[name]

    def _read_column(self, name: str) -> list[str]:
        found: dict[int, list[str]] = {}
        for number, file in enumerate(self._files):
            with suppress(NotAViewError):
                found[number] = file.column(name)
        if not found:
            self._files[0].column(name)  # raises, and says which there are
        first, *others = [number for number, values in found.items() if any(values)] or found
        # One image may well have several paths.
        for other in others if name != "path" else ():
            _warn_of_conflicts(name, self._files[first], self._files[other])
        return [found[first][row] for row in self._rows[first]]

    def find_layers(self, expression: str) -> list[StoredLayer]:
        """Find what ``A+B`` stands for: each layer in every file that has it, side by side.

        ``vgg16/A`` is that of ``vgg16.h5`` or ``vgg16/features.h5`` alone. A pooling that was not
        extracted is derived from the layer's full map. ``all`` is every layer but the images
        themselves, ``all:avg`` every layer so pooled.

        Raises
        ------
        StageError, NotAViewError
            No file has the layer, or it cannot be pooled.
        """
        return [
            layer for term in expression.split(JOINED_BY) for layer in self._find_term(term.strip())
        ]

    def _find_term(self, term: str) -> list[StoredLayer]:
        specs = [
            (number, file, spec)
            for number, file in enumerate(self._files)
            for text in (term, *list_own_names(file.path, term))
            for spec in expand_layer(file, name_layer(file, parse_layer_spec(text)))
        ]
        found = [layer for one in specs if (layer := find_layer(*one)) is not None]
        if not found:
            raise NotAViewError(
                f"{self.name} has no layer {term!r}; it has: {', '.join(self.layers)};"
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
        found = self.find_layers(layer)
        return any(len(self._files[one.file].shape(one.name)) > 1 for one in found)

    def open_matrix(self, layers: Sequence[StoredLayer], *, stores: Sequence[Store] = ()) -> Matrix:
        """Return the layers side by side, a row an image; of several views, one below the other.

        Parameters
        ----------
        stores : sequence of Store, optional
            Where what is made of each layer alone is kept.
        """
        n_views = len(list_views(layers))
        parts = [self._stack_views([layer.look_at(n) for n in range(n_views)]) for layer in layers]
        return parts[0] if len(parts) == 1 else JoinedMatrix(parts, stores)

    def _stack_views(self, views: Sequence[StoredLayer]) -> Matrix:
        parts = [
            LayerMatrix(
                features=self._files[one.file],
                layer=one,
                rows=self._rows[one.file],
                above=self._find_above(one),
            )
            for one in views
        ]
        return parts[0] if len(parts) == 1 else StackedMatrix(parts)

    def _find_above(self, layer: StoredLayer) -> BackboneAbove | None:
        """Return what lies above a layer that is stored as it is.

        Nothing where it is pooled, or the file does not say how it was made.
        """
        if layer.spec.pooling != "none":
            return None
        with suppress(PipelineError, ValueError):
            return BackboneAbove(
                layer=layer.spec,
                recipe=layer.recipe,
                features=FeatureOptions.from_json(json.dumps(self.read_origin(layer))),
                index_file=find_index_file(self._files[layer.file].folder(layer.name)),
            )
        return None

    def read_origin(self, layer: StoredLayer) -> dict[str, Any]:
        """Return how the layer was asked for, as `FeatureOptions.from_json` reads it.

        Of several views, only its own.
        """
        file = self._files[layer.file]
        own = {"view": layer.views[0]} if len(layer.views) > 1 else {}
        try:
            return {**json.loads(file.origin), "layers": [str(layer.spec)], **own}
        except (ValueError, TypeError) as error:
            raise PipelineError(
                f"{str(file.path)!r} does not say how its features were made; extract again"
            ) from error

    def has_learnt_backbone(self, layer: StoredLayer) -> bool:
        """Tell whether the backbone that a layer was extracted with has learnt weights."""
        with suppress(PipelineError):  # A file may not say; hardly anybody keeps what is random.
            return bool(self.read_origin(layer).get("weights") != "random")
        return True

    def artefact_folder(self, layer: StoredLayer) -> Path | None:
        """Return where things derived from a layer are kept, if there is such a place."""
        return self._files[layer.file].folder(layer.name)


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
        There is no such column, a value in it cannot be used, or a split is none.
    """
    check_splits(files.splits.tolist(), where=files.name, before="extract again and ")
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
    keys = [_list_keys(file) for file in files]
    shared = set(keys[0]).intersection(*keys[1:])
    if not shared:
        others = ", ".join(repr(str(file.path)) for file in files[1:])
        raise PipelineError(
            f"{str(files[0].path)!r} and {others} have no image in common; extract the same images"
            if others
            else f"{str(files[0].path)!r} has no rows; extract some images"
        )
    for file, own in zip(files, keys, strict=True):
        n_left_out = sum(key not in shared for key in own)
        if n_left_out:
            warn_once(
                f"{n_left_out} of {len(own)} images of {str(file.path)!r} are not in every file and"
                " are left out"
            )
    order = [key for key in keys[0] if key in shared]
    places = [{key: row for row, key in reversed(list(enumerate(each)))} for each in keys[1:]]
    first = np.array([row for row, key in enumerate(keys[0]) if key in shared], np.int64)
    return [first, *(np.array([place[key] for key in order], np.int64) for place in places)]


def _list_keys(file: Features) -> list[bytes]:
    return [digest.tobytes() for digest in file.digests]


def _warn_of_conflicts(column: str, ours: Features, theirs: Features) -> None:
    """Warn of images of which the second file says something else."""
    said: defaultdict[bytes, set[str]] = defaultdict(set)
    for key, value in zip(_list_keys(theirs), theirs.column(column), strict=True):
        if value:
            said[key].add(value)
    rows = zip(ours.paths, _list_keys(ours), ours.column(column), strict=True)
    conflicts = [path for path, key, value in rows if value not in said.get(key, {value})]
    if conflicts:
        warn_once(
            f"{len(conflicts)} images have another {column} in {str(theirs.path)!r} than in"
            f" {str(ours.path)!r}, whose {column} counts; the first is {conflicts[0]!r}"
        )
