"""``export --features``: a layer as a table for other tools, in Parquet or NPY."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import make_folder, published
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.outputs import write_rows
from permafrost.pipeline.tasks.layer_matrix import LayerMatrix
from permafrost.pipeline.tasks.rows import JOINED_BY, FeatureFiles

# What is in memory at a time, and what is compressed as one piece.
BLOCK_BYTES = 32 * 2**20
_VALUES = "features"
_COLUMNS = ("path", "label", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """The rows of a layer: their number, shape and dtype, and how to read some."""

    n_rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[np.ndarray], np.ndarray]

    @property
    def block_rows(self) -> int:
        """How many rows are read at a time."""
        row_bytes = math.prod(self.shape) * self.dtype.itemsize
        return max(1, BLOCK_BYTES // max(1, row_bytes))

    def iterate(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows from the first to the last, some at a time, and which they are."""
        for start in range(0, self.n_rows, self.block_rows):
            rows = np.arange(start, min(start + self.block_rows, self.n_rows))
            yield slice(start, start + len(rows)), np.ascontiguousarray(self.read(rows))


def export_layer(features: tuple[Path, ...], layer: str, out: Path) -> dict[str, object]:
    """Write a layer of all images, with paths, labels, splits and all further columns.

    What is stored is written as it is stored; a pooling that is derived, and layers that are
    joined, as float32, each row flattened. Of several views it is the first.

    Parameters
    ----------
    features : tuple of Path
        One ``features.h5`` or several.
    layer : str
        As `FeatureFiles.find_layers` takes it.
    out : Path
        ``.parquet``, with a column ``features`` of lists of one length, float16 as float32; or
        ``.npy``, an array of shape (n, *shape), and the other columns as ``<out>.csv``.

    Returns
    -------
    dict

    Raises
    ------
    PipelineError
        The file's name ends otherwise, or pyarrow is missing.
    StageError, CacheError
        There is no such layer, or a value cannot be read as it was written.
    """
    write = _find_writer(out)
    with FeatureFiles(features) as files:
        found = files.find_layers(layer)
        rows = _open_layer(files, layer)
        table = {name: files.column(name) for name in (*_COLUMNS, *files.columns)}
        make_folder(out.absolute().parent)
        about = {"layer": JOINED_BY.join(str(one.spec) for one in found), "shape": rows.shape}
        write(out, table, rows, about)
    return {
        "out": str(out),
        "images": rows.n_rows,
        "shape": list(rows.shape),
        "columns": list(table),
        "bytes": out.stat().st_size,
    }


def _find_writer(out: Path) -> Callable[..., None]:
    if out.is_dir() or out.suffix not in _WRITERS:
        raise PipelineError(
            f"cannot write a layer to {str(out)!r}; name a file that ends in"
            f" {' or '.join(_WRITERS)}"
        )
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise PipelineError(
            "a .parquet file needs the package pyarrow; get it with:"
            ' pip install "permafrost[parquet]", or write .npy'
        )
    return _WRITERS[out.suffix]


def _open_layer(files: FeatureFiles, layer: str) -> _Layer:
    matrix = files.open_matrix(files.find_layers(layer))
    if isinstance(matrix, LayerMatrix) and not matrix.layer.is_derived:
        stored, name, places = matrix.features, matrix.layer.name, matrix.rows
        return _Layer(
            n_rows=len(files),
            shape=stored.shape(name),
            dtype=stored.dtype(name),
            read=lambda rows: stored.read(name, places[rows]),
        )
    shape, dtype = matrix.shape[1:], np.dtype(np.float32)
    return _Layer(n_rows=len(files), shape=shape, dtype=dtype, read=matrix.read)


def _write_npy(
    out: Path, table: Mapping[str, list[str]], layer: _Layer, about: Mapping[str, object]
) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(layer.dtype),
        "fortran_order": False,
        "shape": (layer.n_rows, *layer.shape),
    }
    with published(out) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _, block in layer.iterate():
            stream.write(block.astype(layer.dtype, copy=False).tobytes())
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    write_rows(out.with_name(f"{out.name}.csv"), list(table), rows)


def _write_parquet(
    out: Path, table: Mapping[str, list[str]], layer: _Layer, about: Mapping[str, object]
) -> None:
    """Write one row group after another, so that no more than one is in memory."""
    import pyarrow as pa
    from pyarrow import parquet

    name = _VALUES
    while name in table:
        name = f"_{name}"
    dtype = np.dtype(np.float32) if layer.dtype == np.float16 else layer.dtype
    width = math.prod(layer.shape)
    kind = pa.list_(pa.from_numpy_dtype(dtype), width)
    fields = [*((column, pa.string()) for column in table), (name, kind)]
    schema = pa.schema(fields, metadata={"permafrost": json.dumps(about)})
    with published(out) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for rows, block in layer.iterate():
            values = pa.array(block.reshape(-1).astype(dtype, copy=False))
            texts = [_as_texts(column[rows]) for column in table.values()]
            listed = pa.FixedSizeListArray.from_arrays(values, width)
            writer.write_table(
                pa.Table.from_arrays(
                    [*map(pa.array, texts, [pa.string()] * len(texts)), listed], schema=schema
                )
            )


def _as_texts(column: list[str]) -> list[str | None]:
    """Return what Parquet holds: no text where there is none, and no undecodable bytes."""
    return [text.encode(errors="replace").decode() or None for text in column]


_WRITERS: Mapping[str, Callable[..., None]] = {".parquet": _write_parquet, ".npy": _write_npy}
