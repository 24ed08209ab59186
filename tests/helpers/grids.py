"""Grid pooling as its definition says, one cell at a time."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray


def average_cells(maps: NDArray[np.float32], n_cells: int) -> NDArray[np.float64]:
    """Average maps, shape (n, height, width, channels), to (n, cells × cells × channels)."""
    spans = [
        [(floor(i * size / n_cells), ceil((i + 1) * size / n_cells)) for i in range(n_cells)]
        for size in maps.shape[1:3]
    ]
    cells = [
        maps[:, top:bottom, left:right].mean((1, 2), dtype=np.float64)
        for top, bottom in spans[0]
        for left, right in spans[1]
    ]
    return np.stack(cells, axis=1).reshape(len(maps), -1)
