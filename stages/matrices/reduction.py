"""Scaled rows for learners that see inner products alone: dense, or reduced where that is cheaper.

Rows of many features are not handed to scikit-learn as they are: `stages.matrices.gram` makes a
copy of at most as many columns as there are rows, on which every fit gives the same model at a
fraction of the time and memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import UnknownNameError
from permafrost.stages.matrices.budget import Budget
from permafrost.stages.matrices.gram import Gram, ReducedRows, build_grams, factor_gram, sum_grams
from permafrost.stages.matrices.joined import split_layers
from permafrost.stages.matrices.matrix import Matrix, Rows, Store, read_rows
from permafrost.stages.matrices.scaling import (
    LAYER_SCALES,
    ColumnStatistics,
    check_finite,
    fit_standard_scaler,
    make_standard_scaler,
    scale_each_row,
    scale_layers,
)

# Bumped whenever the reduced rows change; rows that were kept before are then made anew.
NUMERICS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRows:
    """Rows to fit on, scaled by what a training set says.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Which rows of the matrix these are.
    values : ndarray of float32 (dense) or float64 (reduced), shape (m, n_columns)
        Not to be changed: training sets may share it.
    scaler : StandardScaler, Normalizer or "passthrough"
        A step of a scikit-learn Pipeline, fitted, for rows of all features.
    widths : tuple of int
        Of layers whose part of each row gets the length 1 first; none for other scales.
    is_reduced : bool
        Whether `values` is an isometric copy of the rows instead of the rows.
    restore : callable
        Brings weights of `values`, float64 (k, n_columns), back to float64 (k, n_features). Reads
        the matrix where the rows are reduced.
    """

    rows: Rows
    values: NDArray[Any]
    scaler: Any
    widths: tuple[int, ...] = ()
    is_reduced: bool
    restore: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def scale_rows(  # noqa: PLR0913
    matrix: Matrix,
    rows: Rows,
    *,
    scale: str,
    trains: Sequence[Rows],
    memory_bytes: int,
    fit_bytes: int,
    store: Store | None = None,
    may_reduce: bool = True,
) -> Iterator[ScaledRows]:
    """Scale rows for each of several training sets.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
        All of them are transformed.
    scale : {"standard", "l2", "none", "layer"}
        Columns to mean 0 and variance 1, rows to length 1, nothing, or what comes from each layer
        to length 1.
    trains : sequence of ndarray of int64
        Positions in `rows`; only these rows are learnt from.
    memory_bytes : int
        What reading, reducing and fitting may take together.
    fit_bytes : int
        What the learner adds to each value that it fits on.
    store : Store, optional
        Keeps reduced rows; with them at hand only `ScaledRows.restore` reads the matrix.
    may_reduce : bool
        False for learners that need the features themselves.

    Returns
    -------
    iterator of ScaledRows
        One for each of `trains`, in order.

    Raises
    ------
    UnknownNameError
        There is no such scale.
    InputError
        A row holds NaN or infinity (raised while iterating), or memory does not suffice.
    """
    if scale not in LAYER_SCALES:
        raise UnknownNameError("scale", scale, LAYER_SCALES)
    by_columns = scale == "standard"
    budget = Budget(
        n_rows=len(rows),
        n_features=matrix.shape[1],
        memory_bytes=memory_bytes,
        fit_bytes=fit_bytes,
    )
    if not budget.should_reduce(n_sets=len(trains), may_reduce=may_reduce):
        return _scale_dense(matrix, rows, scale=scale, trains=trains)
    reduction = _Reduction(
        matrix=matrix,
        rows=rows,
        scale=scale,
        trains=trains if by_columns else [None],
        budget=budget,
        store=store,
    )
    return reduction.standardise() if by_columns else reduction.repeat(times=len(trains))


def _scale_dense(
    matrix: Matrix, rows: Rows, *, scale: str, trains: Sequence[Rows]
) -> Iterator[ScaledRows]:
    values = read_rows(matrix, rows, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        check_finite(values.sum(axis=1, dtype=np.float64), rows)
    make = partial(ScaledRows, rows=rows, is_reduced=False, restore=lambda weights: weights)
    if scale == "standard":
        for number, train in enumerate(trains, start=1):
            scaler = fit_standard_scaler(values, train)
            # For the last training set the rows are scaled in place.
            yield make(values=scaler.transform(values, copy=number < len(trains)), scaler=scaler)
    elif scale == "layer":
        values = scale_layers(values, matrix.widths, copy=False)
        for _ in trains:
            yield make(values=values, scaler="passthrough", widths=matrix.widths)
    else:
        values, scaler = scale_each_row(values, scale, n_features=matrix.shape[1], copy=False)
        for _ in trains:
            yield make(values=values, scaler=scaler)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reduction:
    """Reduced rows of several training sets; None stands for columns as they are."""

    matrix: Matrix
    rows: Rows
    scale: str
    trains: Sequence[Rows | None]
    budget: Budget
    store: Store | None

    def standardise(self) -> Iterator[ScaledRows]:
        """Yield rows with standardised columns, one for each training set."""
        for reduced in self._reduce_each():
            scaler = make_standard_scaler(cast(ColumnStatistics, reduced.statistics))
            yield self._make_scaled(reduced, reduced.values, scaler)

    def repeat(self, *, times: int) -> Iterator[ScaledRows]:
        """Yield rows that are the same for every training set."""
        (reduced,) = self._reduce_each()
        n_features = self.matrix.shape[1]
        # Inner products were divided by the lengths within each layer before they were reduced.
        rest = "none" if self._by_layer else self.scale
        # A copy: the unscaled rows are needed to bring weights back.
        values, scaler = scale_each_row(reduced.values, rest, n_features=n_features, copy=True)
        for _ in range(times):
            yield self._make_scaled(reduced, values, scaler)

    @property
    def _by_layer(self) -> bool:
        return self.scale == "layer"

    def _make_scaled(
        self, reduced: ReducedRows, values: NDArray[np.float64], scaler: Any
    ) -> ScaledRows:
        restore = partial(
            reduced.restore, matrix=self.matrix, rows=self.rows, n_bytes=self.budget.block_bytes
        )
        return ScaledRows(
            rows=self.rows,
            values=values,
            scaler=scaler,
            widths=self.matrix.widths if self._by_layer else (),
            is_reduced=True,
            restore=restore,
        )

    def _reduce_each(self) -> Iterator[ReducedRows]:
        waiting: dict[int, Gram] = {}
        for index in range(len(self.trains)):
            reduced = self._load(index)
            if reduced is None:
                if index not in waiting:
                    waiting.update(self._build_grams(index))
                reduced = factor_gram(waiting.pop(index))
                self._save(index, reduced)
            yield reduced

    def _build_grams(self, start: int) -> dict[int, Gram]:
        """Build what is missing from training set `start` on, as much as memory allows."""
        if self.trains[start] is None:
            return {start: self._sum_grams()}
        later = range(start + 1, len(self.trains))
        missing = [start, *(i for i in later if self._load_part(i, "pivots") is None)]
        chosen = missing[: self.budget.count_grams()]
        trains = [self.trains[index] for index in chosen]
        grams = build_grams(self.matrix, self.rows, trains, n_bytes=self.budget.block_bytes)
        return dict(zip(chosen, grams, strict=True))

    def _sum_grams(self) -> Gram:
        """Add up those of each layer, which other layers beside it, and other scales, share."""
        layers = split_layers(self.matrix, self.store)
        keeps = self._by_layer or len(layers) > 1
        grams = (self._find_gram(*one, keeps=keeps) for one in layers)
        return sum_grams(grams, by_layer=self._by_layer)

    def _find_gram(self, layer: Matrix, store: Store | None, *, keeps: bool) -> Gram:
        name = _name_array(f"gram {NUMERICS} {layer.key}", self.rows)
        held = store.load(name) if store else None
        if held is not None:
            return Gram(upper=held.T, counts=np.zeros(len(self.rows)), statistics=None)
        (gram,) = build_grams(layer, self.rows, [None], n_bytes=self.budget.block_bytes)
        if store and keeps:
            store.save(name, gram.upper.T)
        return gram

    def _load(self, index: int) -> ReducedRows | None:
        values, pivots = self._load_part(index, "values"), self._load_part(index, "pivots")
        lengths = self._load_part(index, "lengths") if self._by_layer else None
        if values is None or pivots is None or (self._by_layer and lengths is None):
            return None
        train, statistics = self.trains[index], None
        if train is not None:
            found = self._load_part(index, "statistics")
            if found is None:
                return None
            statistics = ColumnStatistics(mean=found[0], variance=found[1], n_rows=len(train))
        return ReducedRows(values=values, pivots=pivots, statistics=statistics, lengths=lengths)

    def _load_part(self, index: int, part: str) -> NDArray[Any] | None:
        return self.store.load(self._name(index, part)) if self.store else None

    def _save(self, index: int, reduced: ReducedRows) -> None:
        if self.store is None:
            return
        self.store.save(self._name(index, "values"), reduced.values)
        if reduced.statistics:
            found = np.stack([reduced.statistics.mean, reduced.statistics.variance])
            self.store.save(self._name(index, "statistics"), found)
        if reduced.lengths is not None:
            self.store.save(self._name(index, "lengths"), reduced.lengths)
        self.store.save(self._name(index, "pivots"), reduced.pivots)

    def _name(self, index: int, part: str) -> str:
        what = f"{part} of layers {self.matrix.widths}" if self._by_layer else part
        name = f"reduction {NUMERICS} {self.matrix.key} {what}"
        return _name_array(name, self.rows, self.trains[index])


def _name_array(what: str, *positions: Rows | None) -> str:
    digest = hashlib.sha256(what.encode())
    for rows in positions:
        if rows is not None:
            digest.update(f" {len(rows)} ".encode())
            digest.update(np.asarray(rows, "<i8").tobytes())
    return digest.hexdigest()
