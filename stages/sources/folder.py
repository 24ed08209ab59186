"""Images in a folder, and the rules about files that every source shares."""

# A million names at a time: pathlib takes several times as long, and does not fold "..", on which
# a file's identity depends.
# ruff: noqa: PTH100, PTH109, PTH110, PTH112, PTH116, PTH118, PTH208

from __future__ import annotations

import errno
import os
import stat
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from permafrost.stages.errors import InputError
from permafrost.stages.sources.boxes import drop_box
from permafrost.stamps import write_exact_stamp

_IMAGES = ".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm"
IMAGE_SUFFIXES = tuple(_IMAGES.split())
ARRAY_SUFFIX = ".npy"
# What lies beside images and is none, so that nobody misses it: tables, notes, annotations, code.
_BESIDE = (
    ".csv .tsv .txt .cls .json .jsonl .xml .yaml .yml .toml .ini .cfg .md .rst .html .htm .pdf .doc"
    " .docx .xls .xlsx .log .py .ipynb .sh .md5 .sha1 .sha256 .sqlite .lnk"
)
_COMPANION_SUFFIXES = tuple(_BESIDE.split())
_COMPANIONS = ("readme", "license", "licence", "copying", "changelog", "checksums", "md5sums")
# What a system leaves in a folder, which is empty all the same.
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
# What a path that is to be folded has, where each is a line.
_ODD = ("\n\n", "\n.", "/.", "//", "/\n")
BLOCK_BYTES = 1 << 20
# Images are read whole. The largest that is decoded, 179 megapixels in four channels of 16 bits,
# has 1.4 GB; whatever has more than this would only fill the memory.
MAX_FILE_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in a source; hidden files are left out.

    Attributes
    ----------
    images : list of str
        Paths with an image suffix, sorted by their bytes.
    others : list of str
        Files that may be meant as images and are not read: of any suffix that neither images have
        nor tables, notes and the like.
    empty : list of str
        Folders that hold no file, at no depth; none where the source keeps no folders.
    """

    images: list[str]
    others: list[str]
    empty: list[str]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The files below a folder.

    Parameters
    ----------
    root : str
        The folder. Absolute paths are read as they are, whatever the root.
    """

    root: str

    def list_images(self) -> list[str]:
        """List the images below the folder, sorted by their bytes."""
        return self.list_files().images

    def list_files(self) -> Listing:
        """List the files below the folder.

        Hidden files and folders and ``__MACOSX`` are left out. Symbolic links are followed,
        except a link to a folder that contains it.

        Raises
        ------
        InputError
            When a folder cannot be listed: a class that is silently missing would be worse.
        """
        return sort_files(_walk(self.root))

    def list_folder(self, folder: str) -> list[str]:
        """List the names in one folder; none where that is not possible."""
        try:
            return os.listdir(os.path.join(self.root, folder))
        except (OSError, ValueError):
            return []

    def read(self, path: str) -> bytes:
        """Return the file's bytes; `OSError` as the system gives it, or when it is no file."""
        return b"".join(self.read_blocks(path))

    def read_blocks(self, path: str) -> Iterator[bytes]:
        """Yield the file's bytes, at most 1 MiB at a time."""
        file = os.path.join(self.root, drop_box(path))
        check_size(stat_regular(file).st_size, file)
        n_bytes = 0
        with open(file, "rb", buffering=0, opener=_open_at_once) as stream:
            while block := stream.read(BLOCK_BYTES):
                # It may be growing.
                n_bytes += len(block)
                check_size(n_bytes, file)
                yield block

    def make_absolute(self) -> FolderSource:
        """Return the same folder by its absolute path."""
        # Without folding "..": behind a symbolic link it leads elsewhere than it reads.
        return FolderSource(os.path.join(os.getcwd(), self.root))

    def file_keys(self, paths: Sequence[str]) -> list[str]:
        """Return the absolute path of each."""
        files = _join_all(os.path.abspath(self.root), paths)
        listed = "\n".join(["", *paths, ""])
        # Most paths are in order, and abspath takes ten times as long as all else.
        return list(map(os.path.abspath, files)) if any(map(listed.__contains__, _ODD)) else files

    def fingerprints(self, paths: Sequence[str]) -> list[str | OSError]:
        """Return the stamp of each file, as `write_exact_stamp` does."""
        now_ns = time.time_ns()
        files = _join_all(self.root, [*map(drop_box, paths)])
        return [_fingerprint(file, now_ns) for file in files]


def drop_file_scheme(location: str) -> str:
    """Return the path that a ``file://`` URL means, and anything else as it is.

    ``%20`` and the like are as in a URL, unless a file is called so.
    """
    if not location.startswith("file://"):
        return location
    path = location.removeprefix("file://").removeprefix("localhost")
    if "%" in path and not os.path.exists(path):
        return urllib.parse.unquote(path, errors="surrogateescape")
    return path


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this base name is no part of a dataset."""
    return name.startswith(".") or name == "__MACOSX"


def is_visible(path: str) -> bool:
    """Whether no part of a path is hidden."""
    return not any(map(is_hidden, path.split("/")))


def sort_files(names: Iterable[str]) -> Listing:
    """Tell images from other files, and find the folders that hold none.

    Where there are none, they are the arrays of NumPy.

    Parameters
    ----------
    names : iterable of str
        Paths of files, and of folders with a slash at the end.
    """
    images, others, folders, filled = [], [], [], set()
    for path in names:
        folder, _, name = path.rpartition("/")
        lower = name.lower()
        if not name:
            folders.append(folder)
        elif lower not in _SYSTEM_FILES:
            filled.add(folder)
            if lower.endswith(IMAGE_SUFFIXES):
                images.append(path)
            elif not lower.endswith(_COMPANION_SUFFIXES) and lower not in _COMPANIONS:
                others.append(path)
    if not images:
        # Among images, arrays are something else.
        images = [path for path in others if path.lower().endswith(ARRAY_SUFFIX)]
        others = [path for path in others if not path.lower().endswith(ARRAY_SUFFIX)]
    parents = {folder[:end] for folder in filled for end in _find_slashes(folder)}
    return Listing(
        images=sorted(images, key=os.fsencode),
        others=sorted(others, key=os.fsencode),
        empty=sorted(set(folders) - filled - parents, key=os.fsencode),
    )


def _find_slashes(path: str) -> list[int]:
    return [place for place, character in enumerate(path) if character == "/"]


def stat_regular(file: str) -> os.stat_result:
    """Stat a file; `OSError` when it is none, because opening a FIFO would wait for ever."""
    try:
        status = os.stat(file)
    except ValueError as error:  # a NUL, which a name in a CSV may hold
        raise OSError(errno.EINVAL, str(error), file) from error
    if stat.S_ISREG(status.st_mode):
        return status
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    raise OSError(errno.EINVAL, "not a regular file", file)


def make_missing(name: str) -> OSError:
    """Return the error of a file that is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def check_size(size_bytes: int, name: str) -> None:
    """Refuse a file before it is read into memory; `OSError` when no image is as large."""
    if size_bytes > MAX_FILE_BYTES:
        reason = f"larger than {MAX_FILE_BYTES / 1e9:.0f} GB, so not read"
        raise OSError(errno.EFBIG, reason, name)


def _open_at_once(file: str, flags: int) -> int:
    """Open without waiting for another end: it may have become a FIFO, or be /proc/kmsg."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))


def _join_all(root: str, paths: Sequence[str]) -> list[str]:
    start = os.path.join(root, "")
    return [path if path[:1] == "/" else start + path for path in paths]


def _fingerprint(file: str, now_ns: int) -> str | OSError:
    try:
        return write_exact_stamp(stat_regular(file), now_ns)
    except OSError as error:
        return error.with_traceback(None)


def _walk(root: str) -> Iterator[str]:
    """Yield the files, and the folders with a slash at the end."""
    # A list instead of recursion: folders may nest deeper than Python's stack.
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in _scan(root, prefix):
            path = prefix + entry.name
            if _is_folder(entry):
                if not (entry.is_symlink() and _leads_back(root, path)):
                    pending.append(path + "/")
                    yield path + "/"
            else:
                yield path


def _scan(root: str, prefix: str) -> list[os.DirEntry[str]]:
    folder = os.path.join(root, prefix)
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(
            f"cannot list {folder!r}: {error.strerror}; make it readable or move it away"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir() raises for a link to itself, where isdir says no.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _leads_back(root: str, link: str) -> bool:
    """Whether a linked folder is one of those it was reached through (then it is a loop)."""
    target = os.stat(os.path.join(root, link))
    ancestors = [root]
    for name in link.split("/")[:-1]:
        ancestors.append(os.path.join(ancestors[-1], name))
    return any(os.path.samestat(target, os.stat(folder)) for folder in ancestors)
