"""Figures of single images: how sharp, how light, how large, and a thumbnail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from permafrost.stages.audit.deviation import Finding, measure_deviation, score_beyond
from permafrost.stages.decoding.decode import decode_grey

# Bumped when the figures of an image change.
FIGURES = 1
# Of the picture that is measured; blur that cannot be seen at this size is none.
LONGEST_SIDE = 256
THUMBNAIL = 32
NAMES = ("width", "height", "mean", "low", "high", "detail")
RECORD_BYTES = 4 * len(NAMES) + THUMBNAIL**2

# Deviations away from the rest of the dataset, from which on an image is told of.
_BLURRED, _LIGHT, _ODD = 3.0, 3.5, 5.0
# Levels of 255: the lightest twentieth of a dark image lies below, the darkest of a bright above.
_DARK, _BRIGHT = 64.0, 200.0
# Of the median side, and of the median ratio of width to height.
_TINY, _ODD_FACTOR = 1 / 3, 2.0


def measure_picture(
    data: bytes, *, box: tuple[int, int, int, int] | None = None, orient: str = "ignore"
) -> NDArray[np.uint8]:
    """Measure an image file, or a box in it.

    Parameters
    ----------
    box, orient : optional
        See `DecodeSpec`.

    Returns
    -------
    ndarray of uint8, shape (RECORD_BYTES,)
        Float32 figures in the order of `NAMES`, then the grey thumbnail. ``low`` and ``high`` are
        the levels that a twentieth of the pixels lie below and above; ``detail`` is the natural
        logarithm of the variance of the Laplacian over that of the levels (Pech-Pacheco et al.,
        "Diatom autofocusing in brightfield microscopy", 2000), which contrast does not change.

    Raises
    ------
    ImageError
        The file cannot be read, or the box does not lie inside.
    """
    (width, height), grey = decode_grey(data, longest=LONGEST_SIDE, box=box, orient=orient)
    levels = grey.astype(np.float32)
    low, high = np.percentile(levels, [5, 95])
    figures = [width, height, levels.mean(), low, high, _measure_detail(levels)]
    side = (THUMBNAIL, THUMBNAIL)
    small = Image.fromarray(grey).resize(side, Image.Resampling.BOX)
    return np.concatenate([np.array(figures, np.float32).view(np.uint8), np.asarray(small).ravel()])


def _measure_detail(levels: NDArray[np.float32]) -> float:
    if min(levels.shape) < 3:
        return float("nan")
    inner = levels[1:-1, 1:-1]
    sides = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    # An image of one level has no detail to be blurred.
    spread = float(levels.var())
    return float(np.log(((4 * inner - sides).var() + 1e-3) / spread)) if spread > 1 else np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFigures:
    """Figures of n images.

    Attributes
    ----------
    records : ndarray of uint8, shape (n, RECORD_BYTES)
        As `measure_picture` gives them.
    known : ndarray of bool, shape (n,)
        Which images were measured.
    """

    records: NDArray[np.uint8]
    known: NDArray[np.bool_]

    def find(self, name: str) -> NDArray[np.float64]:
        """Return one of the figures, NaN where unknown: shape (n,)."""
        stop = 4 * len(NAMES)
        figures = np.ascontiguousarray(self.records[:, :stop]).view(np.float32)
        found: NDArray[np.float64] = figures[:, NAMES.index(name)].astype(np.float64)
        found[~self.known] = np.nan
        return found

    def show(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the thumbnails of images, shape (m, THUMBNAIL, THUMBNAIL)."""
        return self.records[rows, 4 * len(NAMES) :].reshape(-1, THUMBNAIL, THUMBNAIL)


def judge_pictures(figures: PictureFigures) -> list[Finding]:
    """Find blurred, dark, bright, tiny and oddly shaped images, each against its own dataset."""
    if not figures.known.any():
        return []
    width, height, mean, low, high, detail = map(figures.find, NAMES)
    side, shape = np.sqrt(width * height), np.log(width / height)
    share = side / np.nanmedian(side)
    is_odd = np.abs(shape - np.nanmedian(shape)) > np.log(_ODD_FACTOR)
    told = "log detail {detail:.2f}", "mean level {mean:.0f} of 255", "{w:.0f} x {h:.0f} pixels"
    judged = {
        "blurred": (score_beyond(measure_deviation(-detail), _BLURRED), told[0]),
        "dark": (score_beyond(measure_deviation(-high), _LIGHT) * (high < _DARK), told[1]),
        "bright": (score_beyond(measure_deviation(low), _LIGHT) * (low > _BRIGHT), told[1]),
        "tiny": (np.where(share < _TINY, 1 - share / (2 * _TINY), 0.0), told[2]),
        "odd_shape": (score_beyond(np.abs(measure_deviation(shape)), _ODD) * is_odd, told[2]),
    }
    return [
        Finding(
            row=row,
            kind=kind,
            score=float(scores[row]),
            detail=text.format(detail=detail[row], mean=mean[row], w=width[row], h=height[row]),
        )
        for kind, (scores, text) in judged.items()
        for row in np.flatnonzero(scores > 0).tolist()
    ]
