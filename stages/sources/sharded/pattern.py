"""Several files under one name: ``train-{000000..000009}.tar``, ``data/*.parquet``."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from permafrost.stages.errors import InputError
from permafrost.stages.sources.folder import is_visible

_MAGIC = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)
_MOST_FILES = 100_000


def is_pattern(location: str) -> bool:
    """Whether a location means several files, rather than one that is called so."""
    return _MAGIC.search(location) is not None and not Path(location).exists()


def find_base(pattern: str) -> str:
    """Return the folder that all files of a pattern lie in: all that stands before the pattern."""
    start = _MAGIC.search(pattern)
    return os.path.dirname(pattern[: start.start()] if start else pattern)  # noqa: PTH120 - of text


def list_files(pattern: str) -> list[str]:
    """List the files that a pattern means, relative to `find_base`, sorted as paths below them are.

    Braces are expanded as a shell does, and have to be there; of ``*``, ``?``, ``[…]`` and ``**``
    at least one file has to be.

    Raises
    ------
    InputError
        A file is missing, or there are too many.
    """
    base = find_base(pattern)
    found: set[str] = set()
    for name in itertools.islice(_expand_braces(pattern), _MOST_FILES + 1):
        files = glob.glob(name, recursive=True) if re.search(r"[*?\[]", name) else [name]  # noqa: PTH207
        files = [file for file in files if os.path.isfile(file)]  # noqa: PTH113
        if not files:
            raise InputError(f"no file {name!r} of {pattern!r}; correct the pattern")
        found.update(filter(is_visible, (os.path.relpath(file, base or ".") for file in files)))
    if len(found) > _MOST_FILES:
        raise InputError(f"{pattern!r} means more than {_MOST_FILES} files; name fewer")
    return sorted(found, key=lambda file: os.fsencode(f"{file}/"))


def _expand_braces(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    for choice in _list_choices(found[1]):
        yield from _expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])


def _list_choices(braces: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(braces)
    if not numbers:
        yield from braces.split(",")
        return
    first, last = numbers.groups()
    step = 1 if int(first) <= int(last) else -1
    # With as many digits as they are written with.
    digits = max(map(len, (first, last))) if first[0] == "0" else 1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{digits}}"
