"""The checksum of everything that the cache writes, in HDF5 files and beside them.

HDF5's own stays in the files, for whoever reads them with plain h5py. To take another checksum,
change this module and `cache.store.layout.FORMAT`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

# What a dataset of sums is called, and the attribute of a dataset with the sum of all its values.
SUM_NAME = "xxh3"
SUM_DTYPE = "uint64"
SUM_HEX_DIGITS = 16


class Checksum:
    """The checksum of values that come in blocks."""

    def __init__(self) -> None:
        self._sum = xxh3_64()

    def add(self, values: NDArray[Any]) -> None:
        """Take in the next values, in C order."""
        self._sum.update(np.ascontiguousarray(values).data)

    @property
    def value(self) -> int:
        """The checksum of all values so far."""
        return self._sum.intdigest()


def sum_values(values: NDArray[Any]) -> int:
    """Return the checksum of an array's values, in C order."""
    total = Checksum()
    total.add(values)
    return total.value


def sum_text(text: str) -> str:
    """Return the checksum of a text, of `SUM_HEX_DIGITS` digits."""
    return xxh3_64(text.encode(errors="surrogatepass")).hexdigest()
