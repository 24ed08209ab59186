"""One batch of images: which files it is made of, and loading it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.planning.hashing import explain_os_error
from permafrost.stages.decoding.choices import Isolation
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.isolation import decode_isolated
from permafrost.stages.errors import DecoderError, ImageError
from permafrost.stages.sources.boxes import find_box, identify_row
from permafrost.stages.sources.reading import start_reading
from permafrost.stages.sources.source import Reader

# The reason given for an image whose bytes are no longer those that were hashed.
CHANGED = "changed while the run was going; run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTask:
    """What one Dask task loads; `rows` are the batch's rows in the plan, shape (n,)."""

    rows: NDArray[np.int64]
    paths: Sequence[str]
    digests: Sequence[bytes]


@dataclass(slots=True, kw_only=True)
class LoadedBatch:
    """A decoded batch.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Its rows in the plan.
    pixels : ndarray of uint8, shape (n, height, width, channels)
        An image that could not be read stays black; its activations are dropped. So every image
        has the same place in the same batch whichever of its neighbours fail.
    broken : dict of int to str
        Row in the batch → why its bytes cannot be decoded; true for as long as they are the same.
    unreadable : dict of int to str
        Row in the batch → why its bytes could not be had this time.
    n_rotated : int
        Images whose file asks to be shown turned.
    decoding_s : float
        Seconds of one core that decoding them took, where they are decoded in this process.
    """

    rows: NDArray[np.int64]
    pixels: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    n_rotated: int = 0
    decoding_s: float = 0.0

    @property
    def readable(self) -> np.ndarray:
        """Mask of the images that were read: ndarray of bool, shape (n,)."""
        mask = np.ones(len(self.pixels), bool)
        mask[[*self.broken, *self.unreadable]] = False
        return mask


def load_batch(
    source: Reader, task: BatchTask, *, spec: DecodeSpec, isolation: Isolation | None
) -> LoadedBatch:
    """Read and decode one batch; Dask runs it."""
    shape = (len(task.paths), spec.height, spec.width, spec.channels)
    batch = LoadedBatch(rows=task.rows, pixels=np.empty(shape, np.uint8))
    reading = start_reading(source, task.paths)
    for row, (read, path) in enumerate(zip(reading, task.paths, strict=True)):
        try:
            data = read()
            if identify_row(path, hashlib.sha256(data).digest()) != task.digests[row]:
                # Otherwise one image's features would be stored under another's digest.
                batch.unreadable[row] = CHANGED
                continue
            # Of this thread alone: other threads may be busy.
            started_s = time.thread_time()
            own = for_path(spec, path)
            decoded = (
                decode_isolated(data, own, isolation) if isolation else decode_image(data, own)
            )
            batch.decoding_s += time.thread_time() - started_s
        except OSError as error:
            batch.unreadable[row] = explain_os_error(error)
        except DecoderError as error:
            batch.unreadable[row] = str(error)
        except ImageError as error:
            batch.broken[row] = str(error)
        else:
            batch.pixels[row] = decoded.pixels
            batch.n_rotated += decoded.rotated
    batch.pixels[~batch.readable] = 0
    return batch


def for_path(spec: DecodeSpec, path: str) -> DecodeSpec:
    """Return what the image at a path is decoded to: its box, where it tells one."""
    box = find_box(path)
    return spec if box is None else replace(spec, box=box)


def split_batches(
    paths: Sequence[str],
    digests: Sequence[bytes],
    rows: NDArray[np.int64],
    *,
    batch_size: int,
) -> Iterator[BatchTask]:
    """Cut some of the plan's rows into batches."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield BatchTask(
            rows=batch,
            paths=[paths[row] for row in batch],
            digests=[digests[row] for row in batch],
        )
