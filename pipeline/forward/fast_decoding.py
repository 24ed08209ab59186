"""What ``--decode fast`` would give, measured on a few of the user's own images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import ImageError

_N_IMAGES = 8
_ENOUGH_S = 1.0
# A smaller speed-up is not worth other numbers and another feature set.
_WORTHWHILE = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FastDecoding:
    """How fast both ways of decoding are, and how much their pixels differ.

    Attributes
    ----------
    exact_per_second, fast_per_second : float
        Images that one core decodes.
    difference : float
        Of the pixels, on average, in grey levels of 256.
    """

    exact_per_second: float
    fast_per_second: float
    difference: float

    def count_saved_s(self, n_images: int) -> float:
        """Return the seconds of one core that fast decoding of so many images saves."""
        return n_images * (1 / self.exact_per_second - 1 / self.fast_per_second)

    def describe(self) -> str:
        """Say it in a line."""
        return (
            f"--decode fast: {self.fast_per_second:.1f} images/s a core instead of"
            f" {self.exact_per_second:.1f}; pixels differ by {self.difference:.2f} grey levels of"
            " 256, and these features are sets of their own"
        )


def measure_fast_decoding(prepared: Preparation) -> FastDecoding | None:
    """Decode some of the images that are to be computed both ways; takes about a second at most.

    Returns
    -------
    FastDecoding or None
        None where fast decoding is chosen already, or not worth it, or where images are decoded in
        isolation: none of those may be decoded in this process.
    """
    if prepared.decode.decoding == "fast" or prepared.isolation:
        return None
    fast_spec = replace(prepared.decode, decoding="fast")
    exact_s, fast_s, differences = 0.0, 0.0, []
    for data in _read_some(prepared):
        try:
            exact, exact_took_s = _decode(data, prepared.decode)
            fast, fast_took_s = _decode(data, fast_spec)
        except ImageError:
            continue
        exact_s += exact_took_s
        fast_s += fast_took_s
        differences.append(float(np.abs(fast - exact).mean()))
        if exact_s + fast_s > _ENOUGH_S:
            break
    if not any(differences) or exact_s < _WORTHWHILE * fast_s:
        return None
    return FastDecoding(
        exact_per_second=round(len(differences) / exact_s, 1),
        fast_per_second=round(len(differences) / fast_s, 1),
        difference=round(sum(differences) / len(differences), 3),
    )


def _read_some(prepared: Preparation) -> Iterator[bytes]:
    """Read images spread over those to be computed."""
    paths = prepared.plan.paths
    for path in paths[:: -(-len(paths) // _N_IMAGES) or 1]:
        try:
            yield prepared.dataset.source.read(path)
        except OSError:
            continue


def _decode(data: bytes, spec: DecodeSpec) -> tuple[np.ndarray, float]:
    # The time of this thread alone: other threads may be busy.
    started_s = time.thread_time()
    pixels = decode_image(data, spec).pixels
    return pixels.astype(np.int16), time.thread_time() - started_s
