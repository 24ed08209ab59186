"""``select``: which rows to label next."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import make_folder
from permafrost.cache.store.derived import Artefacts
from permafrost.pipeline.audit.options import SelectOptions, choose_candidate
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import METRICS_NAME
from permafrost.pipeline.outputs import read_json, write_rows
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.views import list_views
from permafrost.stages.audit.choosing import (
    choose_centres,
    measure_entropy,
    measure_margins,
    read_directions,
)
from permafrost.stages.datasets.targets import CLASSIFICATION, REGRESSION, parse_targets
from permafrost.stages.errors import UnknownNameError
from permafrost.stages.heads import Head, fit_head, load_head
from permafrost.stages.heads.head import predict_rows
from permafrost.stages.matrices.joined import stack_rows
from permafrost.stages.matrices.matrix import Matrix, Rows

# Of what a head is most unsure of, so many times as many rows are spread out over.
_POOL = 10
FIGURES = ("predicted", "margin", "entropy", "distance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was chosen; `figures` is what ``--json`` prints."""

    figures: dict[str, Any]
    paths: list[str]
    out: Path

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        told = self.figures
        lines = [
            f"{told['selected']} of {told['pool']} images to choose from → {self.out}",
            f"  {told['strategy']}, beside {told['labelled']} labelled ones",
            *(f"  {note}" for note in told["notes"]),
            *(f"  {place}  {path}" for place, path in enumerate(self.paths[:5], 1)),
        ]
        return "\n".join(lines)


class PartedRows(NamedTuple):
    """Rows to choose from, and rows with a label: ndarray of int64 each."""

    pool: Rows
    labelled: Rows


def select(options: SelectOptions) -> Selection:
    """Choose rows to label next, and write them with an empty label.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each.
    """
    started_s, notes = time.monotonic(), list[str]()
    check_table(options.out, options.data.target)
    with options.data.open_files() as files:
        layers = files.find_layers(_choose_layer(options, files))
        texts = files.column(options.data.target)
        rows = part_rows(options, files, texts)
        matrix = files.open_matrix(layers)
        head = _find_head(options, files, layers, rows, matrix)
        strategy = _choose_strategy(options, head, notes)
        n = min(options.n, len(rows.pool))
        if n < options.n:
            notes.append(f"there are no more than {n} different images without a label")
        said = None if head is None else predict_rows(head, matrix, rows.pool)
        chosen, distances = _choose(options, rows, matrix, said, strategy=strategy, n=n)
        table = _tell(rows, chosen, distances, said, head)
        paths = [files.paths[row] for row in chosen]
        pairs = enumerate(zip(paths, table, strict=True), start=1)
        listed = [[place, path, "", *told] for place, (path, told) in pairs]
        if options.with_labelled:
            blank = [""] * len(FIGURES)
            listed += [["", files.paths[row], texts[row], *blank] for row in rows.labelled]
    make_folder(options.out.absolute().parent)
    write_rows(options.out, ("rank", "path", options.data.target, *FIGURES), listed)
    figures = {
        "selected": n,
        "pool": len(rows.pool),
        "labelled": len(rows.labelled),
        "strategy": strategy,
        "out": str(options.out),
        "notes": notes,
        "seconds": round(time.monotonic() - started_s, 3),
    }
    return Selection(figures=figures, paths=paths, out=options.out)


def _choose_layer(options: SelectOptions, files: FeatureFiles) -> str:
    if options.layer is not None:
        return options.layer
    if options.model is not None:
        metrics = read_json(options.model / METRICS_NAME)
        if metrics is None or "layer" not in metrics:
            raise PipelineError(
                f"{str(options.model)!r} holds no fitted model; name what fit wrote"
            )
        return str(metrics["layer"])
    if len(files.layers) != 1:
        raise PipelineError(f"name one of the layers with --layer: {', '.join(files.layers)}")
    return files.layers[0]


def check_table(out: Path, target: str) -> None:
    """Raise PipelineError where writing would lose labels that were filled in."""
    with (
        suppress(FileNotFoundError, csv.Error),
        out.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream,
    ):
        table = csv.DictReader(stream)
        if any(row.get("rank") and (row.get(target) or "").strip() for row in table):
            raise PipelineError(
                f"{str(out)!r} has labels that were filled in; name another file, and give this one"
                f" back with --labels csv:{out}"
            )


def part_rows(options: SelectOptions, files: FeatureFiles, texts: Sequence[str]) -> PartedRows:
    """Find the pool, each image once and none that has a label under another path.

    Raises
    ------
    PipelineError, StageError
        There is nothing to choose from, or no such split.
    """
    is_known = np.array([bool(text.strip()) for text in texts])
    if options.from_split is None:
        is_free = ~is_known
    else:
        splits = files.splits
        if options.from_split not in splits:
            known = sorted(set(splits.tolist()) - {""})
            raise UnknownNameError("split", options.from_split, known, where=f"in {files.name}")
        is_free = splits == options.from_split
        is_known &= ~is_free
    keys = np.ascontiguousarray(files.digests).view("V32").ravel()
    free, known_rows = np.flatnonzero(is_free), np.flatnonzero(is_known)
    free = free[np.sort(np.unique(keys[free], return_index=True)[1])]
    free = free[~np.isin(keys[free], keys[known_rows])]
    if not len(free):
        raise PipelineError(
            f"every image of {files.name} has a {options.data.target}; name a split whose rows are"
            " to count as unlabelled with --from-split"
        )
    return PartedRows(pool=free, labelled=known_rows)


def _find_head(
    options: SelectOptions,
    files: FeatureFiles,
    layers: Sequence[StoredLayer],
    rows: PartedRows,
    matrix: Matrix,
) -> Head | None:
    """Load or fit a head; None where none is needed, or nothing can be learnt yet."""
    data = options.data
    if options.strategy == "diverse" or data.task == REGRESSION:
        return None
    if options.model is not None:
        return load_head(options.model / "head")
    train = rows.labelled[files.splits[rows.labelled] != "test"]
    if not len(train):
        return None
    texts = files.column(data.target)
    targets, _ = parse_targets(texts, task=data.task, names=files.paths, column=data.target)
    values = targets.values[train]
    if (values == values[0]).all():
        return None
    n_views = len(list_views(layers))
    candidate = choose_candidate(None, {}, task=data.task)
    return fit_head(
        candidate.kind,
        candidate.settings,
        matrix,
        targets.select(np.tile(np.arange(len(files)), n_views)),
        train=stack_rows(train, n_rows=len(files), times=n_views),
        groups=np.tile(files.groups, n_views),
        seed=data.seed,
        memory_bytes=data.memory_bytes,
        store=Artefacts(files.artefact_folder(layers[0])),
    )


def _choose_strategy(options: SelectOptions, head: Head | None, notes: list[str]) -> str:
    if options.strategy == "diverse":
        return "diverse"
    if head is not None and head.task != REGRESSION:
        return options.strategy
    if options.data.task == REGRESSION or head is not None:
        notes.append("a regression does not say how sure it is: what is unlike all others")
    else:
        notes.append("no two classes have labels yet: what is unlike all others")
    return "diverse"


def _choose(  # noqa: PLR0913
    options: SelectOptions,
    rows: PartedRows,
    matrix: Matrix,
    said: NDArray[np.float64] | None,
    *,
    strategy: str,
    n: int,
) -> tuple[Rows, NDArray[np.float64]]:
    """Return the rows chosen, and how far each is from what was labelled or chosen before it."""
    pool = rows.pool
    if said is not None and strategy != "diverse":
        margins = measure_margins(said, task=options.data.task)
        unsure = np.argsort(margins, kind="stable")
        pool = pool[unsure[: n if strategy == "uncertain" else _POOL * n]]
        if strategy == "uncertain":
            return pool, np.full(n, np.nan)
    # The mean is that of all rows, whatever is left of the pool.
    everyone = np.concatenate([rows.pool, rows.labelled])
    directions = read_directions(matrix, everyone, memory_bytes=options.data.memory_bytes)
    places = np.flatnonzero(np.isin(everyone[: len(rows.pool)], pool))
    known = np.arange(len(rows.pool), len(everyone))
    chosen, distances = choose_centres(directions, places, known, n=n)
    return everyone[chosen], distances


def _tell(
    rows: PartedRows,
    chosen: Rows,
    distances: NDArray[np.float64],
    said: NDArray[np.float64] | None,
    head: Head | None,
) -> list[list[str]]:
    """Return the columns `FIGURES` of the rows chosen."""
    far = ["" if np.isnan(one) else f"{one:.4f}" for one in distances]
    if said is None or head is None:
        return [["", "", "", one] for one in far]
    mine = said[np.searchsorted(rows.pool, chosen)]
    margins = measure_margins(mine, task=head.task)
    entropies = measure_entropy(mine, task=head.task)
    names = [
        str(head.classes[one.argmax()])
        if head.task == CLASSIFICATION
        else ";".join(head.classes[one >= 0.5].tolist())
        for one in mine
    ]
    return [
        [name, f"{margin:.4f}", f"{entropy:.4f}", one]
        for name, margin, entropy, one in zip(names, margins, entropies, far, strict=True)
    ]
