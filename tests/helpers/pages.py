"""The README and the pages of docs: their blocks of code, commands, links and anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.helpers import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# What a page says above a block that cannot run where the tests do.
EXCUSE = re.compile(r"<!-- not run: (.+) -->")
_LINK = re.compile(r"!?\[(?:[^\]]|\\\])*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"(`{3,})(\S*)")
# Where one command of a shell ends and the next begins.
_OPERATORS = {";", "&&", "||", "|", "(", ")"}
# A variable of the shell, in what is only parsed: of an array of jobs it is a number.
_VARIABLE = re.compile(r"\$\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Attributes
    ----------
    language : str
        ``""`` of what a command prints.
    excuse : str
        Why it is not run; ``""`` if it is.
    shown : str
        What the page shows of its output: the block right below it.
    """

    page: Path
    line: int
    language: str
    text: str
    excuse: str = ""
    shown: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    excuse, start, end = "", 0, 0
    for number, line in enumerate(lines):
        fence = _FENCE.fullmatch(line)
        if excused := EXCUSE.fullmatch(line):
            excuse = excused[1]
        elif fence and not start:
            start, language, ticks = number + 1, fence[2], fence[1]
        elif start and line == ticks:
            text = "\n".join(lines[start:number])
            is_below = bool(blocks) and not "".join(lines[end + 1 : start - 1]).strip()
            if is_below and not language and blocks[-1].language == "sh":
                blocks.append(replace(blocks.pop(), shown=text))
            else:
                blocks.append(
                    Block(page=page, line=start, language=language, text=text, excuse=excuse)
                )
            excuse, start, end = "", 0, number
        elif line.strip() and not start:
            excuse = ""
    return blocks


def list_commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Yield where each of our commands in a block stands, and its arguments."""
    number = block.line
    for line in block.text.replace("\\\n", "\0").split("\n"):
        number += 1
        for arguments in find_commands(line.replace("\0", " ")):
            yield f"{block.page.relative_to(ROOT)}:{number}", arguments
        number += line.count("\0")


def find_commands(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each of our commands in a line of a shell script."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    before = ""
    for word in [*words, ";"]:
        if ">" in (word, before):
            before = word
            continue
        before = word
        if word in _OPERATORS:
            for name in ("run.py", "permafrost"):
                if name in command and command[0] != "mypy":
                    yield command[command.index(name) + 1 :]
            command = []
        elif word.startswith("permafrost "):  # what another command is given to run
            yield from find_commands(word)
        else:
            command.append(_VARIABLE.sub("1", word))


def list_links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield each link of a page to another file or place, with its line."""
    text = _CODE.sub(lambda code: "\n" * code[0].count("\n"), page.read_text(encoding="utf-8"))
    for link in _LINK.finditer(text):
        if "://" not in link[1]:
            yield text.count("\n", 0, link.start()) + 1, link[1]


def list_anchors(page: Path) -> set[str]:
    """Return the anchors that a code host gives to the headings of a page."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
