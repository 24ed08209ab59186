"""What the columns of a table of images mean: by Hugging Face's metadata, or by their types."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.stages.errors import InputError
from permafrost.stages.sources.sharded.shard import Columns

if TYPE_CHECKING:
    import pyarrow

_log = logging.getLogger(__name__)

_LABEL_NAMES = ("label", "labels", "class", "target")


def import_pyarrow(file: str) -> Any:
    """Import what reads Parquet and Arrow; `InputError` where it is not installed."""
    try:
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f'cannot read {file!r}: a package is missing; pip install "permafrost[parquet]"'
        ) from error
    return pyarrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a table's columns are.

    Attributes
    ----------
    image : str
        The column of images.
    is_struct : bool
        Whether that is of structs with ``bytes`` and ``path``, rather than of bytes.
    classes : dict of str to list of str
        Columns of numbers of classes → the names of the classes.
    others : list of str
        Columns of plain values.
    """

    image: str
    is_struct: bool
    classes: Mapping[str, Sequence[str]]
    others: Sequence[str]

    @property
    def label(self) -> str:
        """The column of labels, where that is certain."""
        usual = [name for name in _LABEL_NAMES if name in self.others]
        classes = [name for name in self.others if name in self.classes]
        return next(iter(usual), classes[0] if len(classes) == 1 else "")

    def list_needed(self) -> list[str]:
        """List the columns that tell of rows; what an image file was called is one."""
        return [*self.others, f"{self.image}.path"] if self.is_struct else [*self.others]


def read_features(schema: pyarrow.Schema, file: str) -> Features:
    """Find out what the columns of a file are.

    Raises
    ------
    InputError
        None is of images.
    """
    types = import_pyarrow(file).types
    told = _read_told(schema.metadata or {}, file)
    fields = dict(zip(schema.names, schema.types, strict=True))
    twice = next((name for name, n in Counter(schema.names).items() if n > 1), None)
    if twice is not None:
        raise InputError(f"{file!r} has two columns {twice!r}; rename one")
    structs = {
        name
        for name, kind in fields.items()
        if types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}
    }
    binary = [
        name
        for name, kind in fields.items()
        if name in structs
        or any(
            is_it(kind) for is_it in (types.is_binary, types.is_large_binary, types.is_binary_view)
        )
    ]
    said = [name for name in binary if _get(told, name).get("_type") == "Image"]
    usual = [name for name in binary if name.lower() in ("image", "img", "jpg", "png", "picture")]
    image = next(iter((*said, *usual, *binary)), None)
    if image is None:
        have = ", ".join(f"{name!r} ({kind})" for name, kind in fields.items())[:500] or "none"
        raise InputError(
            f"{file!r} has no column of images, which are bytes or structs of bytes and path; its"
            f" columns are {have}"
        )
    if image not in usual:
        _warn_of_choice(image, tuple(said or binary))
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    plain = (types.is_primitive, types.is_decimal, *texts)
    others = [
        name
        for name, kind in fields.items()
        if any(is_it(kind) for is_it in (*plain, types.is_dictionary))
    ]
    classes = {
        name: [*map(str, names)]
        for name in others
        if isinstance(names := _get(told, name).get("names"), list)
        and types.is_integer(fields[name])
    }
    return Features(image=image, is_struct=image in structs, classes=classes, others=others)


@lru_cache(maxsize=64)  # Once for all shards.
def _warn_of_choice(image: str, candidates: tuple[str, ...]) -> None:
    if len(candidates) > 1:
        _log.warning(
            "columns that may be of images: %s; %r is read; call another one 'image' to read it",
            *(", ".join(map(repr, candidates)), image),
        )


def _read_told(metadata: Mapping[bytes, bytes], file: str) -> Mapping[str, Any]:
    """Return what Hugging Face's datasets says of columns: in the file, or beside it."""
    texts = [metadata.get(b"huggingface", b"")]
    beside = Path(file).with_name("dataset_info.json")
    if beside.is_file():
        texts.append(beside.read_bytes())
    for text in texts:
        try:
            told = json.loads(text)
            features = told.get("info", told)["features"]
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            continue
        if isinstance(features, dict):
            return features
    return {}


def _get(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    feature = told.get(name)
    return feature if isinstance(feature, dict) else {}


def write_columns(table: pyarrow.Table, features: Features) -> Columns:
    """Return a table's columns as texts, numbers of classes as the classes' names."""
    texts = {
        name: _write_texts(table.column(name), features.classes.get(name))
        for name in features.others
    }
    if features.is_struct:
        import pyarrow.compute

        paths = pyarrow.compute.struct_field(table.column(features.image), "path")
        names = _write_texts(paths, None)
        if any(names):
            texts.setdefault("file_name", [os.path.basename(name) for name in names])  # noqa: PTH119
    return Columns(texts=texts, label=features.label)


def _write_texts(column: pyarrow.ChunkedArray, classes: Sequence[str] | None) -> list[str]:
    """Write each value of a column; equal ones share their text."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_string_view(column.type):
        column = column.cast(pyarrow.large_string())
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pyarrow.ChunkedArray):  # of no rows
        return []
    values = encoded.dictionary.to_pylist()
    if classes is not None:
        # Datasets write -1 where no class is known.
        written = [classes[value] if 0 <= value < len(classes) else "" for value in values]
    else:
        # NaN, which nothing equals, says as little as no value does.
        written = [str(value) if value == value else "" for value in values]  # noqa: PLR0124
    numbers = encoded.indices.fill_null(len(written)).to_numpy(zero_copy_only=False)
    shared: list[str] = np.array([*written, ""], object)[numbers].tolist()
    return shared
