"""Labels and splits out of the folders that images lie in, alike for every kind of source.

A folder that holds everything, no image itself and at least two folders of images, is a wrapper
and no class; so is one that holds ``train``, ``test`` and the like. Below the wrappers, folders are
splits or classes.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from permafrost.stages.datasets.split_names import SPLIT_NAMES, is_like_split
from permafrost.stages.sources.folder import Listing

_log = logging.getLogger(__name__)

# Of suffixes and folders, as many as a person reads; the counts are of all.
_MOST_LISTED = 20
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the folders of a dataset mean.

    Attributes
    ----------
    wrappers : tuple of str
        The folders that everything lies in, outermost first.
    splits : dict of str to str
        Folder below the wrappers → its split.
    """

    wrappers: tuple[str, ...]
    splits: Mapping[str, str]

    def place(self, path: str) -> tuple[str, str]:
        """Return the label and the split of an image; "" for none."""
        names = path.split("/")[:-1]
        inner = self.list_inner(names)
        depth = len(self.wrappers)
        split = self.splits.get(names[depth], "") if len(names) > depth else ""
        return (inner[0] if inner else ""), split

    def list_inner(self, names: Sequence[str]) -> Sequence[str]:
        """Return the folders below wrappers and splits, given the names of all."""
        depth = len(self.wrappers)
        is_split = len(names) > depth and names[depth] in self.splits
        return names[depth + is_split :]

    def find_class_folder(self, path: str) -> str:
        """Return the folder of the class that a file would be of; ``.`` outside of all folders."""
        names = path.split("/")[:-1]
        is_inside = tuple(names[: len(self.wrappers)]) == self.wrappers
        n_inner = len(self.list_inner(names)) if is_inside else len(names)
        return "/".join(names[: len(names) - max(0, n_inner - 1)]) or "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """What a dataset's place holds that is not in the dataset.

    Attributes
    ----------
    files : int
        Files whose suffix is of no image that can be read.
    suffixes, folders : dict of str to int
        How many of each suffix, and in each class's folder; the most frequent twenty.
    empty_folders : list of str
        Folders in a class's place that hold no file; the first twenty.
    """

    files: int = 0
    suffixes: dict[str, int] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    empty_folders: list[str] = field(default_factory=list)

    def describe(self) -> list[str]:
        """Return a line for each kind of thing that is left out."""
        lines = []
        if self.files:
            lines.append(
                f"{self.files} files are left out, whose suffix is of no image that can be read:"
                f" {_list_counts(self.suffixes)}; in the folders {_list_counts(self.folders)};"
                " convert them to JPEG or PNG, or move them away"
            )
        if self.empty_folders:
            names = _list_names(self.empty_folders)
            lines.append(f"folders without any file are no classes: {names}; fill or remove them")
        return lines


def read_layout(
    paths: Iterable[str],
    *,
    others: Iterable[str] = (),
    split_names: Mapping[str, str] | None = None,
    from_table: bool = False,
) -> Layout:
    """Find out what the folders of a dataset mean.

    Where ``train`` has folders inside, or there is nothing but folders called like splits, these
    are splits: a class of railway pictures called "train" has no folders inside. A folder beside
    them is a split too if it is called like one, or has a class of theirs inside; what it is called
    is then its split, for `check_splits` to refuse. So is ``test`` beside classes, if it has them
    inside.

    Parameters
    ----------
    paths : iterable of str
        Of images.
    others : iterable of str
        Of files that may be meant as images: a folder of them is a folder of images.
    split_names : mapping of str to str, optional
        What the user says certain folders are, see `parse_split_names`.
    from_table : bool
        Whether the paths start anywhere, as in a table: then the innermost folder of all is the
        class where there is one folder only.
    """
    folders = _list_folders(paths)
    chosen = split_names or {}
    known = {**SPLIT_NAMES, **chosen}
    depth = _count_wrappers(folders, known.keys(), from_table=from_table)
    if not depth and not from_table:
        top = min(folders, default=[])[:1]
        beside = [names for names in _list_folders(others) if names[:1] == top]
        depth = _count_wrappers(folders + beside, known.keys(), from_table=False)
    inside: defaultdict[str, set[str]] = defaultdict(set)
    for names in folders:
        for name in names[depth : depth + 1]:
            inside[name].update(names[depth + 1 : depth + 2])
    splits = {
        name: known.get(name.strip().lower(), name)
        for name in _find_splits(inside, known, chosen.keys())
    }
    wrappers = tuple(min(folders, default=[])[:depth])
    return Layout(wrappers=wrappers, splits=splits)


def _list_folders(paths: Iterable[str]) -> list[list[str]]:
    """List the different folders that files lie in, each by its names from the top on."""
    return [folder.split("/")[:-1] for folder in {path[: path.rfind("/") + 1] for path in paths}]


def _count_wrappers(folders: Sequence[list[str]], known: Set[str], *, from_table: bool) -> int:
    # What the first and the last in order share, all share.
    levels = zip(min(folders, default=[]), max(folders, default=[]), strict=False)
    shared = [first for first, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], levels)]
    for depth, name in enumerate(shared):
        if name.strip().lower() in known:
            return depth
    if shared in folders:  # it holds images
        return len(shared) - 1 if from_table and shared else 0
    return len(shared)


def _find_splits(
    inside: Mapping[str, set[str]], known: Mapping[str, str], chosen: Set[str]
) -> set[str]:
    """Find the folders that are splits, given what folders each one has."""
    lower = {name: name.strip().lower() for name in inside}
    alike = {name for name in inside if lower[name] in known or is_like_split(name)}
    named = {name for name in inside if lower[name] in chosen}
    others = inside.keys() - alike
    if not others and (len(alike) > 1 or any(lower[name] in known for name in alike)):
        return alike
    if any(inside[name] for name in alike if known.get(lower[name]) == "train"):
        classes = {one for name in alike for one in inside[name]}
        return alike | {name for name in others if inside[name] & classes}
    return named | {name for name in alike if inside[name] & others}


def warn_of_layout(
    layout: Layout, paths: Sequence[str], labels: Sequence[str], *, root: str
) -> None:
    """Say what folders were taken for that may be meant in another way."""
    if layout.wrappers:
        _log.warning(
            "%r: the folder %r holds everything, so labels and splits come from those in it",
            *(root, "/".join(layout.wrappers)),
        )
    below = {name for names in _list_folders(paths) for name in layout.list_inner(names)[1:2]}
    classes = sorted(set(labels) - {""})
    if len(classes) == 1 and len(below) > 1:
        _log.warning(
            "%r: all images are of one class, %r; the folders in it (%s) are none, because images"
            " lie beside them",
            *(root, classes[0], _list_names(below)),
        )
    if below and not layout.splits and all(map(is_like_split, below)):
        _log.warning(
            "%r: folders inside of classes are not read as splits: %s; swap them with the classes,"
            " as in train/cat",
            *(root, _list_names(below)),
        )
    doubtful = list(filter(is_like_split, classes))
    if doubtful:
        _log.warning(
            "%r: folders called like splits are taken for classes: %s; where one is a split, say"
            " so, as in --split-names %s=test",
            *(root, _list_names(doubtful), doubtful[0]),
        )


def count_ignored(listing: Listing, layout: Layout) -> Ignored:
    """Count what is listed and no image."""
    suffixes = Counter(_find_suffix(path) for path in listing.others)
    folders = Counter(map(layout.find_class_folder, listing.others))
    empty = [path for path in listing.empty if layout.find_class_folder(f"{path}/") == path]
    return Ignored(
        files=len(listing.others),
        suffixes=dict(suffixes.most_common(_MOST_LISTED)),
        folders=dict(folders.most_common(_MOST_LISTED)),
        empty_folders=empty[:_MOST_LISTED],
    )


def _find_suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot else "no suffix"


def _list_names(names: Collection[str]) -> str:
    more = ", …" if len(names) > _MOST_SHOWN else ""
    return ", ".join(map(repr, sorted(names)[:_MOST_SHOWN])) + more


def _list_counts(counts: Mapping[str, int]) -> str:
    named = [f"{name} ({n})" for name, n in counts.items()]
    return ", ".join(named[:_MOST_SHOWN]) + (", …" if len(named) > _MOST_SHOWN else "")
