"""Parquet files of images, read a row group at a time, and Arrow files, which are mapped."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

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

# Of row groups that are kept: two at least, because threads that decode neighbours meet there.
_KEPT_GROUPS = 2
_MOST_KEPT_BYTES = 256_000_000
_KEPT_SHARE = 1 / 8  # of the memory budget, beyond those two
_MOST_GROUP_BYTES = 2 * MAX_FILE_BYTES
# How an Arrow file begins that has its directory at the end; a stream has none.
_FILE_MAGIC = b"ARROW1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShard:
    """The rows of a table, which have no names but their numbers, with as many digits each.

    Parameters
    ----------
    file : str
    features : Features
    starts : list of int
        The first row of each group, and how many rows there are.
    sizes : list of int
        Of the groups that are read into memory: not of what is mapped, or too large to be read.
    load : callable
        Given a group's number, gives its column of images.
    load_columns : callable
        Gives the columns `Features.list_needed` names, of all rows.
    """

    file: str
    features: Features
    starts: Sequence[int]
    sizes: Sequence[int]
    load: Callable[[int], Any]
    load_columns: Callable[[], Any]

    @property
    def digits(self) -> int:
        """How many digits a name has, six at least."""
        return max(6, len(str(self.starts[-1] - 1)))

    def list_names(self) -> list[str]:
        """List the names: numbers from 0 on."""
        digits = self.digits
        return [f"{row:0{digits}}" for row in range(self.starts[-1])]

    def find(self, name: str) -> int | None:
        """Return the row of a name; None where there is none."""
        is_number = len(name) == self.digits and name.isascii() and name.isdigit()
        return int(name) if is_number and int(name) < self.starts[-1] else None

    def fingerprint(self, row: int) -> str:
        """Return the number."""
        return str(row)

    def read_blocks(self, row: int) -> Iterator[bytes]:
        """Yield the image's bytes."""
        group = bisect_right(self.starts, row) - 1
        try:
            image = self.load(group)[row - self.starts[group]].as_py()
        # On garbage, pyarrow raises anything from OSError to ArrowInvalid.
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise MemberError(f"row group {group} cannot be read: {said}") from error
        data = image["bytes"] if self.features.is_struct and image else image
        if data is None:
            raise MemberError("the row holds no bytes of an image")
        check_size(len(data), self.file)
        yield data

    def read_columns(self) -> Columns:
        """Read the columns of plain values."""
        try:
            return write_columns(self.load_columns(), self.features)
        except Exception as error:
            raise refuse_archive(self.file, "Parquet or Arrow", error) from error


def open_table(file: str) -> TableShard:
    """Read what a Parquet or an Arrow file tells of itself.

    Raises
    ------
    OSError
        When it is neither, or is damaged or cut off.
    InputError
        It has no images, or the package that reads it is missing.
    """
    import_pyarrow(file)
    status = os.stat(file)  # noqa: PTH116
    version = f"{file} {status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    try:
        if file.lower().endswith(".parquet"):
            return _open_parquet(file, version)
        return _open_arrow(file, version)
    except InputError:
        raise
    except Exception as error:
        raise refuse_archive(file, "Parquet or Arrow", error) from error


def _open_parquet(file: str, version: str) -> TableShard:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        told, features = opened.metadata, read_features(opened.schema_arrow, file)
    groups = [told.row_group(number) for number in range(told.num_row_groups)]
    column = f"{features.image}.bytes" if features.is_struct else features.image

    def read(method: str, *args: Any, **options: Any) -> Any:
        with parquet.ParquetFile(file, metadata=told, page_checksum_verification=True) as opened:
            return getattr(opened, method)(*args, **options)

    def load(group: int) -> Any:
        size = groups[group].total_byte_size
        if size > _MOST_GROUP_BYTES:
            raise MemberError(f"it has {size / 1e9:.1f} GB; write smaller ones")
        # In one thread: as many read at once as images are decoded.
        options = {"columns": [column], "use_threads": False}
        return _keep(
            f"{version} {group}",
            size,
            lambda: read("read_row_group", group, **options).column(features.image),
        )

    return TableShard(
        file=file,
        features=features,
        starts=[*accumulate((group.num_rows for group in groups), initial=0)],
        sizes=[size for one in groups if (size := one.total_byte_size) <= _MOST_GROUP_BYTES],
        load=load,
        load_columns=lambda: read("read", columns=features.list_needed()),
    )


def _open_arrow(file: str, version: str) -> TableShard:
    import pyarrow

    mapped = pyarrow.memory_map(file)
    is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    mapped.seek(0)
    reader = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped)
    features = read_features(reader.schema, file)
    batches = (
        [reader.get_batch(number) for number in range(reader.num_record_batches)]
        if is_file
        else [*reader]
    )
    for batch in batches:
        batch.validate()

    def load(group: int) -> Any:
        images = batches[group].column(features.image)
        # Of garbage it is not known before that its offsets lie inside of it.
        return _keep(f"{version} {group}", 0, lambda: _check(images))

    def load_columns() -> Any:
        table = pyarrow.Table.from_batches(batches, reader.schema)
        names = [*features.others, *([features.image] if features.is_struct else [])]
        return _check(table.select(names))

    return TableShard(
        file=file,
        features=features,
        starts=[*accumulate((batch.num_rows for batch in batches), initial=0)],
        sizes=[],
        load=load,
        load_columns=load_columns,
    )


def _check(values: Any) -> Any:
    values.validate(full=True)
    return values


_keeping = threading.Lock()
_kept: OrderedDict[str, tuple[int, Future[Any]]] = OrderedDict()
_kept_bytes = _MOST_KEPT_BYTES


def reserve_memory(sizes: Sequence[int], memory_bytes: int) -> int:
    """Fit what is kept of row groups into a budget, and return the bytes that it may take.

    `sizes` are of all row groups that may be read, in bytes.
    """
    global _kept_bytes  # noqa: PLW0603 - as what is kept, it is the process's own
    _kept_bytes = int(min(_MOST_KEPT_BYTES, memory_bytes * _KEPT_SHARE))
    least = sum(sorted(sizes)[-_KEPT_GROUPS:])
    # And one more that is being read, by the time that another is dropped.
    return min(sum(sizes), max(least, _kept_bytes) + max(sizes, default=0))


def _keep(key: str, size_bytes: int, read: Callable[[], Any]) -> Any:
    """Return what is read, or what another thread has read or is reading just now."""
    with _keeping:
        known = _kept.get(key)
        future: Future[Any] = known[1] if known else Future()
        _kept[key] = size_bytes, future
        _kept.move_to_end(key)
        while (
            not known
            and len(_kept) > _KEPT_GROUPS
            and sum(it[0] for it in _kept.values()) > _kept_bytes
        ):
            _kept.popitem(last=False)
    if known is None:
        try:
            future.set_result(read())
        except BaseException as error:
            with _keeping:
                _kept.pop(key, None)
            future.set_exception(error)
            raise
    return future.result()
