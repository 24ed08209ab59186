"""Parquet files of images, read a row group at a time."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permafrost.stages.errors import InputError
from permafrost.stages.sources.folder import MAX_FILE_BYTES, check_size
from permafrost.stages.sources.members import MemberError, refuse_archive
from permafrost.stages.sources.sharded.features import (
    Features,
    import_pyarrow,
    read_features,
    write_columns,
)
from permafrost.stages.sources.sharded.shard import Columns

if TYPE_CHECKING:
    import pyarrow

# Of row groups that are kept: two at least, because threads that decode neighbours meet there.
_KEPT_BYTES = 256_000_000
_KEPT_GROUPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedRows:
    """Rows that have no names but their numbers, with as many digits as the last one."""

    n_rows: int

    @property
    def digits(self) -> int:
        """How many digits a name has, six at least."""
        return max(6, len(str(self.n_rows - 1)))

    def list_names(self) -> list[str]:
        """List the names: numbers from 0 on."""
        digits = self.digits
        return [f"{row:0{digits}}" for row in range(self.n_rows)]

    def find(self, name: str) -> int | None:
        """Return the row of a name; None where there is none."""
        is_number = len(name) == self.digits and name.isascii() and name.isdigit()
        return int(name) if is_number and int(name) < self.n_rows else None

    def fingerprint(self, row: int) -> str:
        """Return the number."""
        return str(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetShard(NumberedRows):
    """The rows of a Parquet file.

    Parameters
    ----------
    file : str
    metadata : pyarrow.parquet.FileMetaData
    features : Features
    starts : list of int
        The first row of each row group.
    version : str
        Tells the file from what lay there before.
    """

    file: str
    metadata: Any
    features: Features
    starts: list[int]
    version: str

    def read_blocks(self, row: int) -> Iterator[bytes]:
        """Yield the image's bytes."""
        group = bisect_right(self.starts, row) - 1
        size = self.metadata.row_group(group).total_byte_size
        if size > 2 * MAX_FILE_BYTES:
            raise MemberError(f"its row group has {size / 1e9:.1f} GB; write smaller ones")
        images = _load(f"{self.file} {self.version} {group}", size, lambda: self._read_group(group))
        yield take_bytes(images, row - self.starts[group], self.file)

    def read_columns(self) -> Columns:
        """Read the columns of plain values."""
        import_pyarrow(self.file)
        try:
            with self._open() as opened:
                table = opened.read(columns=self.features.list_needed())
            return write_columns(table, self.features)
        # On garbage, pyarrow raises anything from OSError to ArrowInvalid.
        except Exception as error:
            raise refuse_archive(self.file, "Parquet", error) from error

    def _open(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(
            self.file, metadata=self.metadata, page_checksum_verification=True
        )

    def _read_group(self, group: int) -> pyarrow.ChunkedArray:
        name = self.features.image
        column = f"{name}.bytes" if self.features.is_struct else name
        try:
            # One thread: as many read at once as images are decoded.
            with self._open() as opened:
                table = opened.read_row_group(group, columns=[column], use_threads=False)
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise MemberError(f"row group {group} cannot be read: {said}") from error
        return find_bytes(table.column(name), self.features)


def open_parquet(file: str) -> ParquetShard:
    """Read what a Parquet file tells of itself.

    Raises
    ------
    OSError
        When it is no Parquet file, or is damaged or cut off.
    InputError
        It has no images, or the package that reads it is missing.
    """
    parquet = import_pyarrow(file).parquet
    status = os.stat(file)  # noqa: PTH116
    try:
        with parquet.ParquetFile(file) as opened:
            metadata, schema = opened.metadata, opened.schema_arrow
        features = read_features(schema, file)
    except InputError:
        raise
    except Exception as error:
        raise refuse_archive(file, "Parquet", error) from error
    starts, n_rows = [], 0
    for group in range(metadata.num_row_groups):
        starts.append(n_rows)
        n_rows += metadata.row_group(group).num_rows
    version = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    return ParquetShard(
        n_rows=n_rows,
        file=file,
        metadata=metadata,
        features=features,
        starts=starts,
        version=version,
    )


def find_bytes(column: pyarrow.ChunkedArray, features: Features) -> pyarrow.ChunkedArray:
    """Return the bytes of a column of images."""
    import pyarrow.compute

    return pyarrow.compute.struct_field(column, "bytes") if features.is_struct else column


def take_bytes(images: pyarrow.ChunkedArray, row: int, file: str) -> bytes:
    """Return the bytes of one image; `MemberError` where it has none."""
    value = images[row].as_py() if row < len(images) else None
    if value is None:
        raise MemberError("the row holds no bytes of an image")
    check_size(len(value), file)
    return bytes(value)


_loading = threading.Lock()
_loaded: OrderedDict[str, tuple[int, Future[Any]]] = OrderedDict()


def _load(key: str, size_bytes: int, read: Callable[[], Any]) -> Any:
    """Return what is read, or what another thread has read or is reading just now."""
    with _loading:
        known = _loaded.get(key)
        future: Future[Any] = known[1] if known else Future()
        _loaded[key] = size_bytes, future
        _loaded.move_to_end(key)
        while (
            not known
            and len(_loaded) > _KEPT_GROUPS
            and sum(it[0] for it in _loaded.values()) > _KEPT_BYTES
        ):
            _loaded.popitem(last=False)
    if known is None:
        try:
            future.set_result(read())
        except BaseException as error:
            with _loading:
                _loaded.pop(key, None)
            future.set_exception(error)
            raise
    return future.result()
