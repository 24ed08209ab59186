"""What a command did to a folder, and all that a power cut may leave of it.

The model is a pessimistic file system. Bytes are safe once their file was synchronized, names once
their folder was. Bytes written since may be there, or not, or as zeros, or half, each file on its
own; each name may stand for what it stood for at any moment since, whatever the others do. But a
file never has two names: renaming is one step everywhere.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Before each of these the folder is looked at: what Python tells of files and their names.
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
_WRITING = os.O_WRONLY | os.O_RDWR

_SQLITE = ".sqlite"
_FOLDER = -1


@dataclass(frozen=True, slots=True)
class Way:
    """How a power cut chooses; the safe one comes first, what was last there last."""

    choose_meaning: Callable[[Sequence[int | None]], int | None]
    choose_content: Callable[[Sequence[File]], File]
    has_index: bool = True


@dataclass(frozen=True, slots=True)
class File:
    """One file at one moment; `inode` is its identity for as long as it has a name."""

    inode: int
    mtime_ns: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """How a folder looked.

    Attributes
    ----------
    files : dict of str to File
        By relative path.
    folders : frozenset of str
        Relative paths; ``"."`` is the folder itself.
    index : dict of str to File
        SQLite's files, which it looks after itself.
    synced : str or None
        The file or folder that is about to be synchronized.
    """

    files: Mapping[str, File]
    folders: frozenset[str]
    index: Mapping[str, File]
    synced: str | None


def record(folder: str, recording: str) -> None:
    """Look at a folder from now on, whenever this process is about to change something in it.

    Parameters
    ----------
    folder : str
    recording : str
        The file for the moments, written when the process ends.
    """
    recorder = _Recorder(Path(folder))
    recorder.look()
    sys.addaudithook(recorder.note)
    os.fsync = recorder.sync  # type: ignore[assignment]

    def save() -> None:
        recorder.look()
        Path(recording).write_bytes(pickle.dumps(recorder.moments))

    atexit.register(save)


class _Recorder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._is_looking = False
        self._contents: dict[bytes, bytes] = {}
        self._fsync = os.fsync
        self.moments: list[Moment] = []

    def note(self, event: str, arguments: Sequence[object]) -> None:
        """Look, if an event that Python reports is one that changes the folder."""
        if event not in _EVENTS or not str(arguments[0]).startswith(str(self._folder)):
            return
        if event != "open" or int(str(arguments[2])) & _WRITING:
            self.look()

    def sync(self, descriptor: int) -> None:
        """Look, and then do what `os.fsync` does."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self._folder):
            self.look(path.relative_to(self._folder).as_posix())
        self._fsync(descriptor)

    def look(self, synced: str | None = None) -> None:
        """Add how the folder looks now."""
        with self._lock:
            if self._is_looking:
                return
            self._is_looking = True
            try:
                self.moments.append(self._read(synced))
            finally:
                self._is_looking = False

    def _read(self, synced: str | None) -> Moment:
        files: dict[str, File] = {}
        folders = {"."}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            try:
                if path.is_dir():
                    folders.add(name)
                    continue
                status, content = path.stat(), path.read_bytes()
            except FileNotFoundError:
                continue  # another thread just renamed it
            # Equal bytes are kept once.
            content = self._contents.setdefault(content, content)
            files[name] = File(status.st_ino, status.st_mtime_ns, content)
        index = {name: files.pop(name) for name in list(files) if _SQLITE in name}
        # Shared memory does not outlive a power cut.
        index = {name: file for name, file in index.items() if not name.endswith("-shm")}
        return Moment(files, frozenset(folders), index, synced)


class Disk:
    """What is safe, and what else there may be, as moments go by."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        # Each file's contents, and what each name stood for: the safe one, and all since.
        self._contents: dict[int, list[File]] = {}
        self._meanings: dict[str, list[int | None]] = {}

    def show(self, moment: Moment) -> None:
        """Note what changed up to a moment."""
        # An inode without a name may be another file's next time.
        now = {name: meanings[-1] for name, meanings in self._meanings.items()}
        numbers = {
            self._contents[number][-1].inode: number
            for number in now.values()
            if number is not None and number != _FOLDER
        }
        shown = {name: self._identify(file, numbers) for name, file in moment.files.items()}
        shown |= dict.fromkeys(moment.folders, _FOLDER)
        for name in now.keys() | shown.keys():
            meanings = self._meanings.setdefault(name, [None])
            if meanings[-1] != shown.get(name):
                meanings.append(shown.get(name))

    def _identify(self, file: File, numbers: dict[int, int]) -> int:
        if file.inode not in numbers:
            number = numbers[file.inode] = next(self._numbers)
            self._contents[number] = [File(file.inode, file.mtime_ns, b"")]
        contents = self._contents[numbers[file.inode]]
        if contents[-1].content == file.content:
            # Used, or nothing new: a time can be lost without harm.
            contents[-1] = file
        else:
            contents.append(file)
        return numbers[file.inode]

    def sync(self, name: str) -> None:
        """Make a file's bytes, or a folder's names, safe as they were last shown."""
        meaning = self._meanings[name][-1]
        if meaning is None:
            return
        if meaning != _FOLDER:
            self._contents[meaning] = self._contents[meaning][-1:]
            return
        for child, meanings in self._meanings.items():
            if child != "." and _find_folder(child) == name:
                self._meanings[child] = meanings[-1:]

    def make_safe(self) -> None:
        """Make everything safe."""
        self._contents = {number: known[-1:] for number, known in self._contents.items()}
        self._meanings = {name: known[-1:] for name, known in self._meanings.items()}

    def cut(self, way: Way) -> dict[str, File | None]:
        """Return what a power cut leaves: files by relative path, and None for folders."""
        left: dict[str, File | None] = {}
        names: dict[int, str] = {}
        for name, meanings in sorted(self._meanings.items()):
            if name != "." and _find_folder(name) not in left:
                continue
            meaning = way.choose_meaning(meanings)
            if meaning == _FOLDER:
                left[name] = None
            elif meaning is not None and (meaning not in names or meanings[-1] == meaning):
                left.pop(names.get(meaning, name), None)
                names[meaning] = name
                left[name] = way.choose_content(_tear(self._contents[meaning]))
        return left


def _find_folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _tear(versions: Sequence[File]) -> list[File]:
    """Return the safe version, zeros, halves, and what was written since, the last one last."""
    safe, *since = versions
    if not since:
        return [safe]
    last = since[-1]
    whole, half = len(last.content), len(last.content) // 2
    torn = (bytes(whole), last.content[:half], last.content[:half] + bytes(whole - half))
    return [safe, *(File(last.inode, last.mtime_ns, content) for content in torn), *since]


def write_files(left: Mapping[str, File | None], folder: Path) -> Path:
    """Write what a power cut left into a new folder."""
    for name, file in sorted(left.items()):
        path = folder / name
        if file is None:
            path.mkdir(parents=True)
            continue
        path.write_bytes(file.content)
        # The index knows shards by size and time.
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
    return folder


def read_recording(recording: Path) -> list[Moment]:
    """Read what `record` wrote."""
    moments: list[Moment] = pickle.loads(recording.read_bytes())
    return moments


def cut_everywhere(
    moments: Sequence[Moment], ways: Mapping[str, Way]
) -> Iterator[tuple[str, dict[str, File | None]]]:
    """Cut the power at every moment in every way; what was there at first is safe.

    Yields
    ------
    str
        Which cut it is.
    dict
        As `Disk.cut` returns it.
    """
    disk = Disk()
    disk.show(moments[0])
    disk.make_safe()
    for number, moment in enumerate(moments):
        disk.show(moment)
        for name, way in ways.items():
            left = disk.cut(way)
            if way.has_index:
                left |= {
                    one: file for one, file in moment.index.items() if _find_folder(one) in left
                }
            yield f"cut {number} of {len(moments)}, {name}", left
        if moment.synced is not None:
            disk.sync(moment.synced)
