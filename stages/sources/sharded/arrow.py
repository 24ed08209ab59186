"""Arrow files of images, as Hugging Face's ``save_to_disk`` writes them: mapped, not read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from permafrost.stages.errors import InputError
from permafrost.stages.sources.members import MemberError, refuse_archive
from permafrost.stages.sources.sharded.features import (
    Features,
    import_pyarrow,
    read_features,
    write_columns,
)
from permafrost.stages.sources.sharded.parquet import NumberedRows, find_bytes, take_bytes
from permafrost.stages.sources.sharded.shard import Columns

# How a file begins that has its directory at the end; a stream has none.
_FILE_MAGIC = b"ARROW1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowShard(NumberedRows):
    """The rows of an Arrow file.

    Parameters
    ----------
    file : str
    batches : list of pyarrow.RecordBatch
        Mapped from the file.
    features : Features
    starts : list of int
        The first row of each batch.
    checked : set of int
        The batches whose images have been seen to lie inside of the file.
    """

    file: str
    batches: list[Any]
    features: Features
    starts: list[int]
    checked: set[int]

    def read_blocks(self, row: int) -> Iterator[bytes]:
        """Yield the image's bytes."""
        import pyarrow

        number = bisect_right(self.starts, row) - 1
        images = self.batches[number].column(self.features.image)
        try:
            # Of garbage it is not known before that its offsets lie inside of it.
            if number not in self.checked:
                images.validate(full=True)
                self.checked.add(number)
        except pyarrow.ArrowException as error:
            said = " ".join(str(error).split())[:200]
            raise MemberError(f"batch {number} is damaged: {said}") from error
        column = find_bytes(pyarrow.chunked_array([images]), self.features)
        yield take_bytes(column, row - self.starts[number], self.file)

    def read_columns(self) -> Columns:
        """Read the columns of plain values."""
        import pyarrow

        if not self.batches:
            return Columns()
        names = [*self.features.others, *([self.features.image] if self.features.is_struct else [])]
        try:
            parts = [batch.select(names) for batch in self.batches]
            for part in parts:
                part.validate(full=True)
            table = pyarrow.Table.from_batches(parts)
            return write_columns(table, self.features)
        except Exception as error:
            raise refuse_archive(self.file, "Arrow", error) from error


def open_arrow(file: str) -> ArrowShard:
    """Map an Arrow file, a stream or one with a directory, without compression.

    Raises
    ------
    OSError
        When it is no Arrow file, or is damaged or cut off.
    InputError
        It has no images, or the package that reads it is missing.
    """
    arrow = import_pyarrow(file)
    try:
        mapped = arrow.memory_map(file)
        is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        if is_file:
            reader = arrow.ipc.open_file(mapped)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        else:
            reader = arrow.ipc.open_stream(mapped)
            batches = [*reader]
        features = read_features(reader.schema, file)
        batches = [batch for batch in batches if batch.num_rows]
        for batch in batches:
            batch.validate()
    except InputError:
        raise
    # On garbage, pyarrow raises anything from OSError to ArrowInvalid.
    except Exception as error:
        raise refuse_archive(file, "Arrow", error) from error
    starts, n_rows = [], 0
    for batch in batches:
        starts.append(n_rows)
        n_rows += batch.num_rows
    return ArrowShard(
        n_rows=n_rows,
        file=file,
        batches=batches,
        features=features,
        starts=starts,
        checked=set(),
    )
