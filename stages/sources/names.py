"""Which file a name means that is not quite its own: written on another system, or by its id."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from permafrost.stages.sources.boxes import drop_box
from permafrost.stages.sources.folder import IMAGE_SUFFIXES, FolderSource
from permafrost.stages.sources.remote import RemoteSource
from permafrost.stages.sources.source import Source

# What the system says of a name that is no file's.
GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

# What a name may have in common with that of the file it means, strongest first.
_Form = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNames:
    """What missing names stand for.

    Attributes
    ----------
    found : dict of str to str
        Name → the path of the one file that it means.
    near : dict of str to str
        Name → a path that differs in case too, or one of several; not safe to be taken.
    """

    found: dict[str, str]
    near: dict[str, str]


def find_missing(source: Source, paths: Sequence[str]) -> list[str]:
    """Find the paths that are no files; what is there and cannot be read is none of them."""
    if isinstance(source, RemoteSource):
        # A server may have to be asked for each file's fingerprint, which reading it does anyway.
        return [path for path in paths if drop_box(path) not in (source.files or {})]
    told = source.fingerprints(paths)
    return [path for path, it in zip(paths, told, strict=True) if isinstance(it, GONE)]


def find_names(source: Source, names: Iterable[str]) -> FoundNames:
    """Find the files that are meant by names that are no path of the source.

    A backslash may stand for a slash; letters may be composed otherwise (NFC, NFD); an image
    suffix may be missing.

    Parameters
    ----------
    source : Source
    names : iterable of str
    """
    list_folder: Callable[[str], _Folder] | None = None
    found: dict[str, str] = {}
    near: dict[str, str] = {}
    for name in names:
        list_folder = list_folder or _index_folders(source)
        for path in dict.fromkeys((name, name.replace("\\", "/"))):
            exact = _resolve(path, list_folder, forgiving=False)
            close = exact or _resolve(path, list_folder, forgiving=True)
            if exact and exact != name:
                found[name] = exact
                break
            if close and close != name:
                near.setdefault(name, close)
    return FoundNames(found=found, near={name: near[name] for name in near.keys() - found})


def compose(name: str) -> str:
    """Return a name with its letters composed (NFC) and slashes for backslashes."""
    if name.isascii():
        return name.replace("\\", "/")
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def drop_suffix(name: str) -> str:
    """Return a base name without an image suffix; any other dot is part of the name."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - millions of names
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _resolve(path: str, list_folder: Callable[[str], _Folder], *, forgiving: bool) -> str | None:
    """Find a path name by name from the root on."""
    place = "/" if path.startswith("/") else ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for number, part in enumerate(parts, start=1):
        if part == "..":
            place += "../"
            continue
        name = list_folder(place).find(part, is_last=number == len(parts), forgiving=forgiving)
        if name is None:
            return None
        place += f"{name}/"
    return place.removesuffix("/") or None


class _Folder:
    """The names in one folder, by each of their forms."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_form: dict[_Form, dict[str, list[str]]] = {}

    def find(self, name: str, *, is_last: bool, forgiving: bool) -> str | None:
        if name in self._names:
            return name
        for form in _choose_forms(name, is_last=is_last, forgiving=forgiving):
            there = self._index(form).get(form(name), [])
            if len(there) == 1 or (there and forgiving):
                return there[0]
        return None

    def _index(self, form: _Form) -> dict[str, list[str]]:
        if form not in self._by_form:
            index: defaultdict[str, list[str]] = defaultdict(list)
            for name in sorted(self._names):
                index[form(name)].append(name)
            self._by_form[form] = index
        return self._by_form[form]


def _choose_forms(name: str, *, is_last: bool, forgiving: bool) -> list[_Form]:
    forms: list[_Form] = [compose]
    # photo.png is hardly photo.jpg, but what has no suffix is an id.
    if is_last and (forgiving or drop_suffix(name) == name):
        forms.append(_compose_stem)
    if forgiving:
        forms += [_fold, _fold_stem] if is_last else [_fold]
    return forms


def _compose_stem(name: str) -> str:
    return drop_suffix(compose(name))


def _fold(name: str) -> str:
    return compose(name).casefold()


def _fold_stem(name: str) -> str:
    return _compose_stem(name).casefold()


def _index_folders(source: Source) -> Callable[[str], _Folder]:
    """Return what gives the names in a folder of a source, which ends in a slash."""
    if isinstance(source, FolderSource):
        return cache(lambda folder: _Folder(source.list_folder(folder)))
    names: defaultdict[str, set[str]] = defaultdict(set)
    for path in source.list_images():
        parts = path.split("/")
        for number, part in enumerate(parts):
            names["".join(f"{parent}/" for parent in parts[:number])].add(part)
    return cache(lambda folder: _Folder(names.get(folder, ())))
