"""CSV cells that a spreadsheet would run as formulas: harmless when written, the same when read.

Whoever names an image or a class chooses what the cells of our tables say, and
``=HYPERLINK("http://…")`` is a fine name for a photo. A text that may be taken for a formula gets
an apostrophe in front, which spreadsheets read as "this is text"; a path gets ``./``, with which it
still names its file. What looks like a formula with such a mark in front gets another one, so that
taking one off gives back what there was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Full-width signs are taken for the others by spreadsheets in Chinese, Japanese and Korean.
_SIGNS = "=+-@\t\r＝＋－＠"
_PATH_SIGNS = f".{_SIGNS}"
_SIGN = f"[{re.escape(_SIGNS)}]"
# Where semicolons or tabs separate columns, as in half of Europe, cells begin after these too.
_START = r"(?:\A|(?<=[;\t\r\n]))"
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:[;\t\r\n]|\Z)"
_FORMULA = rf"'*(?!{_NUMBER}){_SIGN}"
_BARE_TEXT = re.compile(rf"{_START}(?={_FORMULA})")
_MARKED_TEXT = re.compile(rf"{_START}'(?={_FORMULA})")
_BARE_PATH = re.compile(rf"(?:\./)*{_SIGN}")
_MARKED_PATH = re.compile(rf"\A\./(?=(?:\./)*{_SIGN})")


def neutralise(cells: Sequence[object], *, header: str) -> list[object]:
    """Return the cells of a column so that none is a formula; only texts are looked at.

    Parameters
    ----------
    cells : sequence
    header : str
        The column's name; those of ``path`` are paths.
    """
    texts = {cell for cell in cells if isinstance(cell, str)}
    # One search through all is ten times as fast as one for each.
    everything = "".join(texts)
    if not any(sign in everything for sign in _SIGNS):
        return list(cells)
    mark = _mark_path if header == "path" else _mark_text
    safe = {text: mark(text) for text in texts}
    return [safe[cell] if isinstance(cell, str) else cell for cell in cells]


def _mark_text(text: str) -> str:
    return _BARE_TEXT.sub("'", text)


def _mark_path(path: str) -> str:
    # Few paths need more than a look at their first character.
    return f"./{path}" if path[:1] in _PATH_SIGNS and _BARE_PATH.match(path) else path


def restore_texts(cells: list[str]) -> list[str]:
    """Return what `neutralise` was given for texts."""
    if "'" not in "".join(cells):
        return cells
    return [_MARKED_TEXT.sub("", cell) if "'" in cell else cell for cell in cells]


def restore_paths(cells: Sequence[str]) -> Sequence[str]:
    """Return what `neutralise` was given for paths."""
    if "\n." not in "\n".join(["", *cells]):
        return cells
    return [_MARKED_PATH.sub("", cell) if cell[:1] == "." else cell for cell in cells]
