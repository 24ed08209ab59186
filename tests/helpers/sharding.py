"""Shards as others write them: WebDataset's tars, and tables of images in Parquet and Arrow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from tests.helpers.packing import encode_digits

CLASSES = ["zero", "one", "two"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
INFO = {
    "features": {
        "image": {"_type": "Image"},
        "label": {"names": CLASSES, "_type": "ClassLabel"},
        "note": {"dtype": "string", "_type": "Value"},
    }
}


def make_table(digits: Sequence[bytes], *, first: int = 0) -> Any:
    """Make a table as Hugging Face's datasets do; every third row is of no known class."""
    numbers = range(first, first + len(digits))
    schema = pa.schema(
        [("image", IMAGE), ("label", pa.int64()), ("note", pa.string()), ("size", pa.float64())],
        metadata={"huggingface": json.dumps({"info": INFO})},
    )
    columns = {
        "image": [
            {"bytes": one, "path": f"a/{n}.png"} for n, one in zip(numbers, digits, strict=True)
        ],
        "label": [n % 3 - 1 for n in numbers],
        "note": [None if n == 1 else f"=note {n}" for n in numbers],
        "size": [n / 2 for n in numbers],
    }
    return pa.table(columns, schema=schema)


def write_parquet(file: Path, table: Any, **options: Any) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=4, **options)
    return str(file)


def write_arrow(file: Path, table: Any, *, is_file: bool = False) -> str:
    """Write as `save_to_disk` does, a stream; or with a directory at the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    start = pyarrow.ipc.new_file if is_file else pyarrow.ipc.new_stream
    with pa.OSFile(str(file), "wb") as stream, start(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return str(file)


def name_samples(samples: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """Name files as WebDataset does: key and kind."""
    return {
        f"{key}.{kind}": content
        for key, sample in samples.items()
        for kind, content in sample.items()
    }


def make_samples(n_rows: int, *, first: int = 0) -> dict[str, bytes]:
    digits = encode_digits(first + n_rows)
    return name_samples(
        {
            f"{number:04d}": {
                "png": digits[number],
                "cls": str(number % 3).encode(),
                "json": json.dumps({"kind": f"k{number % 2}", "n": number, "box": [1]}).encode(),
            }
            for number in range(first, first + n_rows)
        }
    )
