"""The features of a layer on a plane, where each point is an image."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from permafrost.cores import count_cores
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import Predictions
from permafrost.pipeline.looking.photos import Photos
from permafrost.pipeline.models.kept import shorten_layers
from permafrost.pipeline.models.reopened import ReopenedFit
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.parts import PointMap, Section, show_number
from permafrost.pipeline.report.pictures import encode
from permafrost.pipeline.units import count
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION, SEPARATOR
from permafrost.stages.matrices.matrix import Matrix, read_rows

PCA, UMAP, NONE = "pca", "umap", "none"
MAPS = (PCA, UMAP, NONE)
# So many tiles of 56 pixels stay below the 15 MB that a page may have.
_MOST_ROWS = 10_000
_MOST_CLASSES = 40
# What tiles may have together, in pixels, and the sides that they are then given.
_TILE_PIXELS = 16_000_000
_SIDES = (96, 64, 56)
# Along each side of a sheet: a browser decodes only the sheets that are looked at.
_TILES = 16
_QUALITY = 55
# Where each row lies, shape (n, 2), what the axes are, and what that tells.
Plane = tuple[NDArray[np.float64], tuple[str, str], str]


def check_map(kind: str) -> None:
    """Raise PipelineError where the package is missing that lays features out."""
    if kind == UMAP and find_spec("umap") is None:
        raise PipelineError(
            "--map umap needs the package umap-learn; install permafrost[umap], or use --map pca"
        )


def tell_map(
    chapter: Chapter, fit: ReopenedFit, *, found: Predictions | None, photos: Photos, kind: str
) -> Section | None:
    """Lay out the images of a dataset by the features that the model goes by."""
    files = fit.bench.files
    matrix = files.open_matrix(files.find_layers(chapter.layer))
    rows = _draw_rows(len(files), matrix, fit.options.memory_bytes)
    if kind == NONE or len(rows) < 3 or matrix.shape[1] < 2:
        return None
    lay_out = _lay_out_umap if kind == UMAP else _lay_out_pca
    places, axes, finding = lay_out(read_rows(matrix, rows, dtype=np.float32))
    names, labels = _sort(chapter, [files.column(chapter.target)[r] for r in rows])
    paths = [files.paths[row] for row in rows]
    side = next((one for one in _SIDES if one**2 * len(rows) <= _TILE_PIXELS), _SIDES[-1])
    said = {} if found is None else dict(zip(found.paths, found.predicted, strict=True))
    texts = files.column(chapter.target)
    data = {
        "classes": names,
        "label": labels,
        "x": _stretch(places[:, 0]),
        "y": _stretch(-places[:, 1]),
        "path": paths,
        "text": [texts[row] for row in rows],
        "predicted": [said.get(path, "") for path in paths],
        "is_wrong": [
            int(chapter.task != REGRESSION and path in said and said[path] != texts[row])
            for row, path in zip(rows.tolist(), paths, strict=True)
        ],
        "side": side,
        "across": _TILES,
        "sheets": _cut_sheets(photos, paths, side),
        "axes": axes,
    }
    note = (
        "Hover a point, or go from one to the next with the arrow keys, to see its image; click it"
        " to see its class alone."
    )
    of = "" if len(rows) == len(files) else f", a sample of {len(files):,}"
    title = f"{count(len(rows), 'image')}{of}, by {shorten_layers(chapter.layer)}"
    parts = [PointMap(title=title, data=data, note=note)]
    return Section(name="map", title="Map of the features", finding=finding, parts=parts)


def _cut_sheets(photos: Photos, paths: Sequence[str], side: int) -> list[str]:
    """Return sheets of square tiles as data URIs, row by row, `_TILES` on a side."""
    from PIL import Image

    sheets, step = [], _TILES**2
    with (
        ThreadPoolExecutor(count_cores()) as pool,
        show_progress(len(paths), unit="images", note=lambda: "the map") as advance,
    ):
        for start in range(0, len(paths), step):
            some = paths[start : start + step]
            sheet = Image.new("RGB", (_TILES * side, -(-len(some) // _TILES) * side))
            for number, tile in enumerate(pool.map(photos.cut, some, itertools.repeat(side))):
                down, across = divmod(number, _TILES)
                sheet.paste(tile, (across * side, down * side))
            sheets.append(encode(sheet, _QUALITY))
            advance(len(some))
    return sheets


def _draw_rows(n_rows: int, matrix: Matrix, memory_bytes: int) -> NDArray[np.int64]:
    """Draw as many rows as a page shows and as fit the memory, with what is made of them."""
    n_fitting = memory_bytes // (4 * 4 * matrix.shape[1])
    n_drawn = min(n_rows, _MOST_ROWS, max(n_fitting, 3))
    if n_drawn == n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, n_drawn, replace=False))


def _lay_out_pca(values: NDArray[np.float32]) -> Plane:
    from sklearn import decomposition

    fitted = decomposition.PCA(2, svd_solver="randomized", random_state=0, copy=False)
    places = np.asarray(fitted.fit_transform(values), np.float64)
    first, second = np.nan_to_num(fitted.explained_variance_ratio_).tolist()
    said = (
        f"The first two principal components hold {first + second:.0%} of the features' variance:"
        " what lies apart here is apart, what overlaps may still be told apart by the rest."
    )
    return places, (f"component 1: {first:.0%}", f"component 2: {second:.0%}"), said


def _lay_out_umap(values: NDArray[np.float32]) -> Plane:
    import umap

    places = np.asarray(umap.UMAP(random_state=0, n_jobs=1).fit_transform(values), np.float64)
    said = (
        f"UMAP lays the neighbours among {len(values):,} images beside one another: groups are"
        " real, but neither their sizes nor the distances between them mean anything."
    )
    return places, ("UMAP 1", "UMAP 2"), said


def _stretch(values: NDArray[np.float64]) -> list[float]:
    """Bring coordinates to 0 to 1."""
    low, high = float(values.min()), float(values.max())
    stretched: list[float] = np.round((values - low) / ((high - low) or 1.0), 4).tolist()
    return stretched


def _sort(chapter: Chapter, texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the names of what points are coloured by, and which of them each text is."""
    if chapter.task == REGRESSION:
        return _cut_values(texts)
    if chapter.task == MULTILABEL:
        texts = [text.partition(SEPARATOR)[0].strip() for text in texts]
    common = Counter(texts).most_common(_MOST_CLASSES)
    names = sorted(name for name, _ in common if name)
    if len(names) < len(set(texts)):
        names.append("no label" if set(texts) <= {*names, ""} else "others")
    number = {name: place for place, name in enumerate(names)}
    return names, [number.get(text, len(names) - 1) for text in texts]


def _cut_values(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Cut values into quarters of the rows."""
    values = np.array([float(text) if text else np.nan for text in texts])
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    pairs = list(itertools.pairwise(edges)) or [(edges[0], edges[0])]
    names = [f"{show_number(low)} to {show_number(high)}" for low, high in pairs]
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    if len(known) < len(values):
        names.append("no value")
        places[~np.isfinite(values)] = len(names) - 1
    return names, [int(place) for place in places]
