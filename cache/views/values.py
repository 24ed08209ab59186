"""Read the values that a view holds itself, each chunk checked against a sum of our own.

To HDF5's checksum, a chunk of zeros is as good as any.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.hdf5.chunks import StoredChunks, match_chunks
from permafrost.cache.hdf5.direct import RawFile, read_chunks
from permafrost.cache.hdf5.opening import has_node, open_node
from permafrost.cache.hdf5.sealed import read_array
from permafrost.cache.shards.blocks import Block, flatten_block
from permafrost.cache.shards.gather import read_rows


class StoredValues:
    """The values of one layer, in an open file.

    Parameters
    ----------
    file : h5py.File
    dataset : h5py.Dataset
        The layer's.
    sums : str
        The path of the sums of its chunks. Views of old have none, nor have compressed ones, whose
        chunks cannot be unpacked when they are zeros: HDF5 reads these.
    """

    def __init__(self, file: h5py.File, dataset: h5py.Dataset, *, sums: str) -> None:
        self._file = file
        self._dataset = dataset
        self._chunks: StoredChunks | None = None
        if has_node(file, sums):
            self._chunks = match_chunks(dataset, read_array(open_node(file, sums)))

    def read(self, rows: NDArray[np.int64], out: NDArray[Any], *, block: Block = ()) -> None:
        """Read rows in any order, repeated ones too, or a part of each, into an array.

        Raises
        ------
        OSError
            A value is not as it was written.
        """
        positions = np.arange(len(rows))
        if self._chunks is None or not len(rows):
            read_rows(self._dataset, rows, positions=positions, out=out, block=block)
            return
        read_chunks(
            RawFile(descriptor=self._file.id.get_vfd_handle(), chunks=self._chunks),
            rows,
            positions=positions,
            columns=flatten_block(block, self._dataset.shape[1:]),
            out=out.reshape(len(out), -1),
        )
