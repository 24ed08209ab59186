"""The figures of all images of a dataset, each measured once and remembered by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.derived import Artefacts
from permafrost.cores import count_cores
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.planning.hashing import explain_os_error
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.audit.pictures import (
    FIGURES,
    RECORD_BYTES,
    PictureFigures,
    measure_picture,
)
from permafrost.stages.decoding.decode import describe_decoder
from permafrost.stages.errors import DecoderError, ImageError, StageError
from permafrost.stages.sources.boxes import find_box, identify_row
from permafrost.stages.sources.reading import start_reading
from permafrost.stages.sources.source import Reader, open_source

_DIGEST_BYTES = 32
_PATHS_PER_TASK = 64


def look_at_pictures(
    files: FeatureFiles, layer: StoredLayer, *, images: str | None, notes: list[str]
) -> PictureFigures:
    """Measure the pictures, as far as they are there or known; a box where a row is one.

    Parameters
    ----------
    layer : StoredLayer
        What is measured is kept beside it; boxes are of images turned as its own were.
    images : str, optional
        Where the pictures lie, if they moved.
    notes : list of str
        Is told of pictures that are not there, or that have other bytes by now.

    Raises
    ------
    PipelineError
        `images` cannot be opened.
    """
    store = Artefacts(files.artefact_folder(layer))
    figures = _recall(store, files.digests)
    if figures.known.all():
        return figures
    root = images or files.opened[0].place
    try:
        source = open_source(root)
    except StageError as error:
        if images is not None:
            raise PipelineError(f"--images {root!r}: {error}") from error
    else:
        if _measure_missing(source, files, figures, str(layer.recipe.get("orient", "ignore"))):
            _keep(store, files.digests, figures)
    n_unknown = int((~figures.known).sum())
    if n_unknown:
        notes.append(
            f"{n_unknown} of {len(files)} pictures were not looked at: not in {root!r} as they"
            " were; name where they are with --images"
        )
    return figures


def _recall(store: Artefacts, digests: NDArray[np.uint8]) -> PictureFigures:
    """Return what is known of images by their digests, shape (n, 32)."""
    records = np.zeros((len(digests), RECORD_BYTES), np.uint8)
    known = np.zeros(len(digests), np.bool_)
    kept = store.load(_name_figures())
    if kept is not None and kept.shape[1:] == (_DIGEST_BYTES + RECORD_BYTES,):
        places = {row[:_DIGEST_BYTES].tobytes(): place for place, row in enumerate(kept)}
        found = np.array([places.get(digest.tobytes(), -1) for digest in digests])
        known = found >= 0
        records[known] = kept[found[known], _DIGEST_BYTES:]
    return PictureFigures(records=records, known=known)


def _measure_missing(
    source: Reader, files: FeatureFiles, figures: PictureFigures, orient: str
) -> bool:
    """Measure what is not known yet, in threads; tell whether anything could be."""
    todo = np.flatnonzero(~figures.known)
    tasks = np.split(todo, range(_PATHS_PER_TASK, len(todo), _PATHS_PER_TASK))

    def measure(rows: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
        paths = [files.paths[row] for row in rows]
        reading = zip(start_reading(source, paths), paths, files.digests[rows], strict=True)
        return [_measure(*one, orient=orient) for one in reading]

    with (
        show_progress(len(todo), unit="images", note=lambda: "looking at them") as advance,
        ThreadPoolExecutor(count_cores()) as pool,
    ):
        for rows, found in zip(tasks, pool.map(measure, tasks), strict=True):
            for row, record in zip(rows, found, strict=True):
                if record is not None:
                    figures.records[row], figures.known[row] = record, True
            advance(len(rows))
    return bool(figures.known[todo].any())


def _measure(
    read: Callable[[], bytes], path: str, digest: NDArray[np.uint8], *, orient: str
) -> NDArray[np.uint8] | None:
    """Return the figures of one row; None of an image that is gone, or has other bytes by now."""
    try:
        data = read()
        # Otherwise one image's figures would be remembered as another's.
        if identify_row(path, hashlib.sha256(data).digest()) != digest.tobytes():
            return None
        return measure_picture(data, box=find_box(path), orient=orient)
    except OSError as error:
        explain_os_error(error)  # raises what is no fault of the image
    except (ImageError, DecoderError):
        pass
    return None


def _keep(store: Artefacts, digests: NDArray[np.uint8], figures: PictureFigures) -> None:
    """Keep the figures beside those of other images that are there."""
    known = figures.known
    fresh = np.concatenate([digests[known], figures.records[known]], axis=1)
    kept = store.load(_name_figures())
    if kept is not None and kept.shape[1:] == fresh.shape[1:]:
        fresh = np.concatenate([fresh, kept])
    keys = np.ascontiguousarray(fresh[:, :_DIGEST_BYTES]).view(f"V{_DIGEST_BYTES}").ravel()
    store.save(_name_figures(), fresh[np.unique(keys, return_index=True)[1]])


def _name_figures() -> str:
    return hashlib.sha256(f"pictures {FIGURES} {describe_decoder()}".encode()).hexdigest()
