"""What ``--decode fast`` would give, measured on a few of the user's own images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from permafrost.pipeline.forward.batch import LoadedBatch, for_path
from permafrost.pipeline.planning.missing import ExtractionPlan
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import ImageError

_N_IMAGES = 8
_ENOUGH_S = 1.0
# After so many that fast decoding does not change, because they are not much larger than needed.
_ENOUGH_ALIKE = 3
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


@dataclass(slots=True, kw_only=True)
class ExactDecoding:
    """What a run's own decoding took, and what it made of a few images from all over its plan.

    Attributes
    ----------
    n_images : int
    seconds : float
        Of one core, for all of them.
    pixels : dict of str to ndarray of uint8, shape (height, width, channels)
        By path.
    """

    n_images: int = 0
    seconds: float = 0.0
    pixels: dict[str, np.ndarray] = field(default_factory=dict)

    def note(self, batch: LoadedBatch, plan: ExtractionPlan) -> None:
        """Take a batch into account."""
        readable = np.flatnonzero(batch.readable)
        self.n_images += len(readable)
        self.seconds += batch.decoding_s
        n_wanted = min(
            -(-_N_IMAGES * len(readable) // len(plan.paths)), _N_IMAGES - len(self.pixels)
        )
        for row in readable[:n_wanted]:
            self.pixels[plan.paths[batch.rows[row]]] = batch.pixels[row].copy()


def measure_fast_decoding(prepared: Preparation) -> FastDecoding | None:
    """Decode some of the images that are to be computed both ways; takes about a second at most.

    Returns
    -------
    FastDecoding or None
        None where fast decoding is chosen already, or not worth it, or where images are decoded in
        isolation: none of those may be decoded in this process.
    """
    paths = prepared.plan.paths
    some = paths[:: -(-len(paths) // _N_IMAGES) or 1]
    return _compare(
        prepared, some, lambda path, data: _decode(data, for_path(prepared.decode, path))
    )


def compare_fast_decoding(prepared: Preparation, exact: ExactDecoding) -> FastDecoding | None:
    """Do the same with what a run decoded already, the fast way only."""
    each_s = exact.seconds / max(1, exact.n_images)
    return _compare(prepared, list(exact.pixels), lambda path, _: (exact.pixels[path], each_s))


def _compare(
    prepared: Preparation,
    paths: Sequence[str],
    decode_exactly: Callable[[str, bytes], tuple[np.ndarray, float]],
) -> FastDecoding | None:
    if prepared.decode.decoding == "fast" or prepared.isolation:
        return None
    fast_spec = replace(prepared.decode, decoding="fast")
    exact_s, fast_s, differences = 0.0, 0.0, []
    for path in paths:
        try:
            data = prepared.dataset.source.read(path)
            exact, exact_took_s = decode_exactly(path, data)
            fast, fast_took_s = _decode(data, for_path(fast_spec, path))
        except (OSError, ImageError):
            continue
        exact_s += exact_took_s
        fast_s += fast_took_s
        differences.append(float(np.abs(fast.astype(np.int16) - exact).mean()))
        is_enough = exact_s + fast_s > _ENOUGH_S
        if is_enough or (len(differences) == _ENOUGH_ALIKE and not any(differences)):
            break
    if not any(differences) or exact_s < _WORTHWHILE * fast_s:
        return None
    return FastDecoding(
        exact_per_second=round(len(differences) / exact_s, 1),
        fast_per_second=round(len(differences) / fast_s, 1),
        difference=round(sum(differences) / len(differences), 3),
    )


def _decode(data: bytes, spec: DecodeSpec) -> tuple[np.ndarray, float]:
    # The time of this thread alone: other threads may be busy.
    started_s = time.thread_time()
    pixels = decode_image(data, spec).pixels
    return pixels, time.thread_time() - started_s
