"""Images in shards: a source of all their rows."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from permafrost.stages.errors import InputError
from permafrost.stages.sources.boxes import drop_box
from permafrost.stages.sources.folder import Listing, make_missing, stat_regular
from permafrost.stages.sources.members import MemberError
from permafrost.stages.sources.sharded.pattern import find_base, is_pattern, list_files
from permafrost.stages.sources.sharded.shard import Columns, Shard
from permafrost.stages.sources.sharded.tables import TableShard, open_table, reserve_memory
from permafrost.stages.sources.sharded.webdataset import open_tar
from permafrost.stamps import write_exact_stamp

# How the name ends → what opens such a shard.
KINDS: Mapping[str, Callable[[str], Shard]] = {
    ".tar": open_tar,
    ".parquet": open_table,
    ".arrow": open_table,
}
# As Hugging Face and TensorFlow call shards: train-00000-of-00008.parquet.
_NUMBERED = re.compile(r"(?P<before>.*-)\d{5,}-of-(?P<of>\d{5,})(?:-[0-9a-f]+)?(?P<after>\.\w+)")
_END = re.compile(rf"(?:{'|'.join(map(re.escape, KINDS))})(?=/)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ShardedSource:
    """The rows of one shard, or of several that a pattern means.

    Parameters
    ----------
    root : str
        A shard, whose rows' paths are their names in it; or a pattern, where these stand behind the
        path of the shard: ``train-000000.tar/0001.jpg``.
    """

    root: str

    def list_images(self) -> list[str]:
        """List the rows, sorted by their bytes; `InputError` where a shard cannot be read."""
        shards = ((f"{shard}/" if shard else "", names) for shard, names in self.list_shards())
        return [f"{start}{name}" for start, names in shards for name in names]

    def list_shards(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the path of each shard, "" where there is one only, and its rows' names."""
        for path, shard in self._open_all():
            yield path, shard.list_names()

    def list_files(self) -> Listing:
        """List the rows; what else is in a shard is told by `list_columns`."""
        return Listing(images=self.list_images(), others=[], empty=[])

    def check(self) -> None:
        """Find the shards of a pattern, or open the only one; raises as `open_shard` does."""
        if _is_one(self.root):
            open_shard(self.root)
        else:
            self.find_shards()

    def find_shards(self) -> list[str]:
        """Find the files that a pattern means; `InputError` where one is missing or of no kind."""
        names = list_files(self.root)
        other = next((name for name in names if not name.lower().endswith(tuple(KINDS))), None)
        if other is not None:
            raise InputError(
                f"{other!r} of {self.root!r} is no shard that can be read in place; name"
                f" {', '.join(KINDS)} files, and unpack what is compressed as a whole"
            )
        return names

    def find_absent(self) -> str:
        """Name the first set of shards of which some are not there, as their names tell; or ""."""
        if _is_one(self.root):
            return ""
        there: Counter[tuple[str, ...]] = Counter()
        for name in self.find_shards():
            if told := _NUMBERED.fullmatch(name):
                there[told.group("before", "of", "after")] += 1
        absent = ((names, n) for names, n in there.items() if n < int(names[1]))
        return next(
            (f"{before}…-of-{of}{after} ({n} are there)" for (before, of, after), n in absent), ""
        )

    def list_columns(self) -> Columns:
        """Read what is told of the rows besides their images, in the order of `list_images`."""
        told = []
        for path, shard in self._open_all():
            with _refusing(path or self.root):
                told.append((shard.read_columns(), len(shard.list_names())))
        names = dict.fromkeys(name for columns, _ in told for name in columns.texts)
        texts = {
            name: [
                text
                for columns, n_rows in told
                for text in columns.texts.get(name) or [""] * n_rows
            ]
            for name in names
        }
        labels = {columns.label for columns, _ in told} - {""}
        return Columns(texts=texts, label=labels.pop() if len(labels) == 1 else "")

    def read(self, path: str) -> bytes:
        """Return the image's bytes; `OSError` with the reason when it is damaged."""
        return b"".join(self.read_blocks(path))

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield the image's bytes, at most 1 MiB at a time from a tar."""
        file, name = self._locate(path)
        shard = open_shard(file)
        row = shard.find(name)
        if row is None:
            raise make_missing(path)
        try:
            yield from shard.read_blocks(row)
        except MemberError as error:
            raise OSError(errno.EIO, str(error), self.file_keys([path])[0]) from error

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return ``/absolute/shard.tar!name`` of each."""
        base = os.path.abspath(_find_place(self.root))  # noqa: PTH100
        located = (self._split(path) for path in paths)
        return [
            f"{base}{'/' if shard else ''}{shard}!{name}{path[len(drop_box(path)) :]}"
            for path, (shard, name) in zip(paths, located, strict=True)
        ]

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return the row's own fingerprint, then the shard's stamp."""
        known: dict[str, tuple[Shard, str] | OSError] = {}
        found: list[str | OSError] = []
        for path in paths:
            file, name = self._locate(path)
            if file not in known:
                known[file] = _look_at(file)
            told = known[file]
            if isinstance(told, OSError):
                found.append(told)
                continue
            shard, stamp = told
            row = shard.find(name)
            found.append(make_missing(path) if row is None else f"{shard.fingerprint(row)}:{stamp}")
        return found

    def reserve_memory(self, memory_bytes: int) -> int:
        """Fit what is kept of tables into a budget; see `tables.reserve_memory`."""
        shards = [] if _is_one(self.root) else self.find_shards()
        files = [os.path.join(_find_place(self.root), name) for name in shards] or [self.root]  # noqa: PTH118
        found = [_look_at(file) for file in files if not file.lower().endswith(".tar")]
        # What cannot be opened is for reading its rows to say.
        tables = [one[0] for one in found if not isinstance(one, OSError)]
        sizes = [size for one in tables if isinstance(one, TableShard) for size in one.sizes]
        return reserve_memory(sizes, memory_bytes)

    def make_absolute(self) -> ShardedSource:
        """Return the same shards by their absolute path."""
        return ShardedSource(os.path.join(os.getcwd(), self.root))  # noqa: PTH109, PTH118

    def _open_all(self) -> Iterator[tuple[str, Shard]]:
        """Yield the path of each shard from the base on, "" where there is one only; and it."""
        for name in [""] if _is_one(self.root) else self.find_shards():
            with _refusing(name or self.root):
                place = _find_place(self.root)
                shard = open_shard(os.path.join(place, name) if name else place)  # noqa: PTH118
            yield name, shard

    def _split(self, path: str) -> tuple[str, str]:
        """Return the shard's path from the base on, and the row's name in it."""
        path = drop_box(path)
        if _is_one(self.root):
            return "", path
        for end in _END.finditer(path):
            if _is_file(os.path.join(_find_place(self.root), path[: end.end()])):  # noqa: PTH118
                return path[: end.end()], path[end.end() + 1 :]
        return path, ""

    def _locate(self, path: str) -> tuple[str, str]:
        shard, name = self._split(path)
        return os.path.join(_find_place(self.root), shard) if shard else self.root, name  # noqa: PTH118


@contextmanager
def _refusing(shard: str) -> Iterator[None]:
    """Make a user's error of a shard that cannot be read."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot read {shard!r}: {reason}; download it again, or name the others"
        ) from error


# Asked for every path of millions.
@lru_cache(maxsize=16)
def _is_one(root: str) -> bool:
    return not is_pattern(root)


@lru_cache(maxsize=16)
def _find_place(root: str) -> str:
    return root if _is_one(root) else find_base(root)


@lru_cache(maxsize=1024)
def _is_file(file: str) -> bool:
    return os.path.isfile(file)  # noqa: PTH113


_opening = threading.Lock()
_open: dict[str, tuple[tuple[int, ...], Shard]] = {}


def open_shard(file: str) -> Shard:
    """Return a shard; what it holds is found out once, and again when the file changes.

    Raises
    ------
    OSError
        It cannot be read.
    InputError
        It has no images, or a package that reads it is missing.
    """
    status = stat_regular(file)
    version = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    place = os.path.join(os.getcwd(), file)  # noqa: PTH109, PTH118
    with _opening:
        known = _open.get(place)
        if known is None or known[0] != version:
            suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122
            known = _open[place] = version, KINDS[suffix](place)
    return known[1]


def _look_at(file: str) -> tuple[Shard, str] | OSError:
    try:
        return open_shard(file), write_exact_stamp(os.stat(file))  # noqa: PTH116
    except OSError as error:
        return error.with_traceback(None)
