"""The figures of all images of a dataset, each measured once and remembered by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.derived import Artefacts
from permafrost.cores import count_cores
from permafrost.pipeline.planning.hashing import explain_os_error
from permafrost.pipeline.progress import show_progress
from permafrost.stages.audit.pictures import (
    FIGURES,
    RECORD_BYTES,
    PictureFigures,
    measure_picture,
)
from permafrost.stages.decoding.decode import describe_decoder
from permafrost.stages.errors import DecoderError, ImageError
from permafrost.stages.sources.boxes import find_box, identify_row
from permafrost.stages.sources.reading import start_reading
from permafrost.stages.sources.source import Reader

_DIGEST_BYTES = 32
_PATHS_PER_TASK = 64


def recall_figures(store: Artefacts, digests: NDArray[np.uint8]) -> PictureFigures:
    """Return what is known of images by their digests, shape (n, 32)."""
    records = np.zeros((len(digests), RECORD_BYTES), np.uint8)
    known = np.zeros(len(digests), np.bool_)
    kept = store.load(_name_figures())
    if kept is not None and kept.shape[1:] == (_DIGEST_BYTES + RECORD_BYTES,):
        places = {row[:_DIGEST_BYTES].tobytes(): place for place, row in enumerate(kept)}
        found = [places.get(digest.tobytes(), -1) for digest in digests]
        known = np.array(found) >= 0
        records[known] = kept[np.array(found)[known], _DIGEST_BYTES:]
    return PictureFigures(records=records, known=known)


def measure_pictures(
    source: Reader,
    paths: Sequence[str],
    digests: NDArray[np.uint8],
    store: Artefacts,
    *,
    orient: str,
) -> PictureFigures:
    """Measure the images that are not known yet, in threads, and keep what was measured.

    Parameters
    ----------
    source : Reader
    paths : sequence of str, length n
        Of a box in an image the box is measured.
    digests : ndarray of uint8, shape (n, 32)
        An image whose bytes have another digest by now, or that is gone, stays unknown.
    store : Artefacts
    orient : str
        How the features' images were turned, which boxes are told of.
    """
    figures = recall_figures(store, digests)
    todo = np.flatnonzero(~figures.known)
    tasks = [
        todo[start : start + _PATHS_PER_TASK] for start in range(0, len(todo), _PATHS_PER_TASK)
    ]

    def measure(rows: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
        reading = start_reading(source, [paths[row] for row in rows])
        return [
            _measure(read, paths[row], digests[row], orient)
            for read, row in zip(reading, rows, strict=True)
        ]

    with (
        show_progress(len(todo), unit="images", note=lambda: "looking at them") as advance,
        ThreadPoolExecutor(count_cores()) as pool,
    ):
        for rows, found in zip(tasks, pool.map(measure, tasks), strict=True):
            for row, record in zip(rows, found, strict=True):
                if record is not None:
                    figures.records[row], figures.known[row] = record, True
            advance(len(rows))
    if figures.known[todo].any():
        _keep(store, digests, figures)
    return figures


def _measure(
    read: Callable[[], bytes], path: str, digest: NDArray[np.uint8], orient: str
) -> NDArray[np.uint8] | None:
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
