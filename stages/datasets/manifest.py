"""A dataset as a table: one row an image, kept in a CSV file that moves with its project."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from permafrost.stages.datasets.annotations.boxes import keep_images_together, place_boxes
from permafrost.stages.datasets.digests import DIGEST_BYTES, Digests
from permafrost.stages.datasets.formulas import restore_texts
from permafrost.stages.datasets.split_names import normalise_splits
from permafrost.stages.datasets.table import COLUMN_NAMES, read_table, write_table
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError
from permafrost.stages.sources.remote import is_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A dataset's images in their order; all lists are of one length.

    Parameters
    ----------
    root : str
        Location of the source, for `stages.sources.source.open_source`.
    paths : Texts
        POSIX paths relative to the root; undecodable bytes as `os.fsdecode` gives them. A list
        becomes them.
    labels : sequence of str
        Labels; "" for none.
    splits : list of str
        ``train``, ``val``, ``test``, or a name that `check_splits` refuses; "" for none.
    digests : Digests
        SHA-256 of the images' bytes, 32 bytes each; b"" when not hashed. A list becomes them.
    extra : dict of str to list of str
        Further columns, in order.

    Raises
    ------
    InputError
        When a further column has a name that the file needs for a column of its own.
    """

    root: str
    paths: Texts
    labels: Sequence[str]
    splits: list[str]
    digests: Digests
    extra: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", Texts.of(self.paths))
        object.__setattr__(self, "digests", Digests.of(self.digests))
        columns: list[Sized] = [self.labels, self.splits, self.digests, *self.extra.values()]
        if any(len(column) != len(self.paths) for column in columns):
            raise ValueError("the columns of a manifest must be of one length")
        taken = next((name for name in self.extra if name.casefold() in COLUMN_NAMES), None)
        if taken is not None:
            raise InputError(f"column {taken!r} has the name of a manifest's own; rename it")

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Iterable[int]) -> Manifest:
        """Return the given rows, in the given order."""
        chosen = list(rows)
        return Manifest(
            root=self.root,
            paths=Texts.of(self.paths[row] for row in chosen),
            labels=[self.labels[row] for row in chosen],
            splits=[self.splits[row] for row in chosen],
            digests=Digests(self.digests.array[chosen]),
            extra={name: [column[row] for row in chosen] for name, column in self.extra.items()},
        )


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Write a manifest as CSV: ``path,label,split,digest,root``, then the further columns.

    Digests are 64 hexadecimal digits or empty; the root is a URL, or relative to the file's
    folder, so that both can move together. The file appears whole or not at all.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    root = _relate_root(manifest.root, file)
    columns = {
        "path": manifest.paths,
        "label": manifest.labels,
        "split": manifest.splits,
        "digest": [digest.hex() for digest in manifest.digests],
        "root": [root] * len(manifest),
    }
    write_table(columns | manifest.extra, file)


def read_manifest(file: Path, *, split_names: Mapping[str, str] | None = None) -> Manifest:
    """Read a manifest, or any CSV with a column of image paths.

    Parameters
    ----------
    file : Path
        A CSV file. Without a column ``root`` its paths are relative to the file's own folder;
        labels, splits and digests may be missing. With a column ``box``, see `place_boxes`.
    split_names : mapping of str to str, optional
        See `normalise_splits`.

    Raises
    ------
    InputError
        When the file cannot be read, has no column of paths, a malformed digest or several roots.
    """
    packed, roots = bytearray(), set[str]()

    def pack(texts: Sequence[str]) -> None:
        packed.extend(_parse_digests(texts, file).array.data)

    table = read_table(file, take={"digest": pack, "root": roots.update})
    paths, extra = table.require("path"), table.extra
    if any(boxes := table.known.get("box", ())):
        extra = keep_images_together(paths, extra)
        paths = place_boxes(paths, boxes, name=str(file))
    blank = [""] * len(paths)
    return Manifest(
        root=_read_root(sorted(restore_texts([*roots])), file),
        paths=Texts.of(paths),
        labels=table.known.get("label", blank),
        splits=normalise_splits(table.known.get("split", blank), split_names),
        digests=Digests(np.frombuffer(packed, np.uint8).reshape(-1, DIGEST_BYTES))
        if packed
        else Digests.none(len(paths)),
        extra=extra,
    )


def _relate_root(root: str, file: Path) -> str:
    if is_url(root):
        return root
    # Links on the way are resolved, because ".." after one leads elsewhere than it reads; a link
    # at the end is kept: photos/ in a project stays photos/ wherever it points to.
    named = Path(os.path.abspath(root))  # noqa: PTH100 - folds "..", as resolve would the link
    named = named.parent.resolve() / named.name
    try:
        return Path(os.path.relpath(named, file.parent.resolve())).as_posix()
    except ValueError:  # another drive
        return named.as_posix()


def _read_root(roots: Sequence[str], file: Path) -> str:
    if len(roots) > 1:
        raise InputError(
            f"{str(file)!r} mixes the roots {roots[0]!r} and {roots[1]!r}; use one file for each"
        )
    root = roots[0] if roots else ""
    if is_url(root):
        return root
    plain = os.path.normpath(file.parent / root)
    if Path(plain).resolve() == (file.parent / root).resolve():
        return plain
    return os.path.normpath(file.parent.resolve() / root)


def _parse_digests(texts: Sequence[str], file: Path) -> Digests:
    # Together where all are there and nothing else is: "fromhex" would skip spaces.
    if set(map(len, texts)) == {2 * DIGEST_BYTES}:
        with contextlib.suppress(ValueError):
            raw = bytearray.fromhex("".join(texts))
            if len(raw) == DIGEST_BYTES * len(texts):
                return Digests(np.frombuffer(raw, np.uint8).reshape(-1, DIGEST_BYTES))
    return Digests.of(_parse_digest(text, file) for text in texts)


def _parse_digest(text: str, file: Path) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b"?"
    if len(digest) not in (0, DIGEST_BYTES):
        raise InputError(
            f"{str(file)!r} holds the digest {text!r}, which is not 64 hexadecimal digits; "
            "empty it or rename the column"
        )
    return digest
