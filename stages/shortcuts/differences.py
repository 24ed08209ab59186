"""How far one program's activations are from another's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

Run = Callable[[np.ndarray], list[np.ndarray]]


def measure_errors(
    program: Run, reference: Run, batches: Iterable[np.ndarray]
) -> list[tuple[float, float]]:
    """Run the same images through two programs and compare what comes out.

    Parameters
    ----------
    program, reference : callable
        As `stages.engines.program.Program`, with the same layers.
    batches : iterable of ndarray of uint8, each (n, height, width, channels)

    Returns
    -------
    list of (float, float)
        For each layer, the largest difference relative to the reference's largest value, and the
        mean difference relative to its mean value; all absolute. Where all of the reference's
        values are 0, the differences themselves.
    """
    peaks, sums = [], []
    for batch in batches:
        pairs = list(zip(program(batch), reference(batch), strict=True))
        differing = [(np.abs(ours - theirs), np.abs(theirs)) for ours, theirs in pairs]
        peaks.append([[part.max() for part in pair] for pair in differing])
        sums.append([[part.sum(dtype=np.float64) for part in pair] for pair in differing])
    largest, total = np.max(peaks, axis=0), np.sum(sums, axis=0)
    return [
        (float(peak[0] / (peak[1] or 1.0)), float(whole[0] / (whole[1] or 1.0)))
        for peak, whole in zip(largest, total, strict=True)
    ]
