"""``index --stats``: what the images that heads learn from look like, all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.hashing import explain_os_error
from permafrost.pipeline.progress import show_progress
from permafrost.stages.decoding.decode import count_levels
from permafrost.stages.errors import ImageError
from permafrost.stages.sources.boxes import find_box
from permafrost.stages.sources.reading import start_reading

_PATHS_PER_TASK = 64
_DECIMALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStatistics:
    """Figures of the training rows' images, each of its own size.

    Attributes
    ----------
    images, unreadable : int
        Rows whose image is in the figures, and rows whose image could not be read.
    mean, std : list of float
        Over all pixels, of red, green and blue from 0 to 255.
    width, height : list of float
        The smallest, the median and the largest, in pixels.
    preprocess : str
        What to give ``--preprocess``.
    """

    images: int
    unreadable: int
    mean: list[float]
    std: list[float]
    width: list[float]
    height: list[float]
    preprocess: str

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Return the figures as a person wants them."""
        sides = (("width", self.width), ("height", self.height))
        sizes = (f"{name} {low:g} to {high:g}, median {mid:g}" for name, (low, mid, high) in sides)
        return [
            f"  {self.images} training images, {self.unreadable} unreadable: {'; '.join(sizes)}",
            f"  --preprocess {self.preprocess}",
        ]


def measure_images(dataset: Dataset, *, workers: int) -> ImageStatistics:
    """Decode the image of each row that is neither in the val nor in the test split.

    Parameters
    ----------
    dataset : Dataset
    workers : int
        Threads that read and decode.

    Raises
    ------
    PipelineError
        There is none, or none can be read.
    """
    manifest = dataset.manifest
    rows = zip(manifest.paths, manifest.splits, strict=True)
    paths = [path for path, split in rows if split not in ("val", "test")]
    starts = range(0, len(paths), _PATHS_PER_TASK)
    tasks = [paths[start : start + _PATHS_PER_TASK] for start in starts]
    counts, sizes = np.zeros((3, 256), np.int64), []
    with (
        show_progress(len(paths), unit="images", note=lambda: "decoding") as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        for task, (levels, found) in zip(
            tasks, pool.map(lambda task: _count(dataset, task), tasks), strict=True
        ):
            counts += levels
            sizes += found
            advance(len(task))
    if not sizes:
        raise PipelineError(f"none of the {len(paths)} training images can be read; drop --stats")
    return _sum_up(counts, sizes, n_unreadable=len(paths) - len(sizes))


def _count(
    dataset: Dataset, paths: Sequence[str]
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    counts, sizes = np.zeros((3, 256), np.int64), []
    for path, read in zip(paths, start_reading(dataset.source, paths), strict=True):
        try:
            size, levels = count_levels(read(), find_box(path))
        except OSError as error:
            explain_os_error(error)  # raises what is no fault of the image
        except ImageError:
            pass
        else:
            counts += levels
            sizes.append(size)
    return counts, sizes


def _sum_up(
    counts: NDArray[np.int64], sizes: list[tuple[int, int]], *, n_unreadable: int
) -> ImageStatistics:
    means, deviations = zip(*map(_describe_levels, counts.tolist()), strict=True)
    texts = (
        [f"{mean:.{_DECIMALS}f}" for mean in means],
        [
            # Nothing is divided by 0, where all pixels are of one level.
            f"{round(deviation, _DECIMALS) or 1:.{_DECIMALS}f}"
            for deviation in deviations
        ],
    )
    widths, heights = zip(*sizes, strict=True)
    return ImageStatistics(
        images=len(sizes),
        unreadable=n_unreadable,
        mean=list(means),
        std=list(deviations),
        width=[min(widths), statistics.median(widths), max(widths)],
        height=[min(heights), statistics.median(heights), max(heights)],
        preprocess=f"mean={','.join(texts[0])},std={','.join(texts[1])}",
    )


def _describe_levels(counts: Sequence[int]) -> tuple[float, float]:
    """Return mean and deviation; of whole numbers without limit, so that nothing is lost."""
    n = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    return total / n, math.sqrt((n * squares - total * total) / (n * n))
