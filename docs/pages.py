"""A Sphinx extension: pages made from the code, the examples and the files beside ``docs``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Files that stand in the place of a page; and what links to files beside the pages lead to.
INSTEAD = {
    "overview": ROOT / "README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
PLACES = {ROOT / "examples": "examples.md"} | {file: f"{page}.md" for page, file in INSTEAD.items()}
EXAMPLES = sorted(file for file in (ROOT / "examples").rglob("*") if file.is_file())
LANGUAGES = {".py": "python", ".yaml": "yaml", "Makefile": "make", "Snakefile": "python"}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
# What stands for the value of an option whose default only the machine or the data tell.
_SHOWN = {"None": "", "False": "", "[]": ""}


def setup(app: Sphinx) -> dict[str, bool]:
    """Have every page read through `complete`."""
    app.connect("source-read", complete)
    return {"parallel_read_safe": True}


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Write what is generated into a page, and turn its links to files into links to pages."""
    file = INSTEAD.get(page, DOCS / f"{page}.md")
    text = file.read_text(encoding="utf-8") if page in INSTEAD else source[0]
    if page == "commands":
        text += "\n".join(describe_commands())
    if page == "examples":
        text += "\n".join(show_examples())
    source[0] = _LINK.sub(lambda link: place_link(link[1], file.parent), text)


def place_link(target: str, folder: Path) -> str:
    """Return the page, and the place in it, of a file that a link of a file in `folder` names."""
    file = Path(os.path.normpath(folder / target))
    if file in EXAMPLES:
        return f"examples.md#{file.name.lower().replace('.', '')}"
    if file.is_relative_to(DOCS):
        return str(file.relative_to(DOCS))
    # The folder of an example is told where the examples are.
    page = next((PLACES[one] for one in (file, *file.parents) if one in PLACES), None)
    return page or os.path.relpath(file, DOCS)


def show_examples() -> Iterator[str]:
    """Yield each file of ``examples/``, under its name."""
    for file in EXAMPLES:
        language = LANGUAGES.get(file.suffix or file.name, "text")
        yield f"\n## {file.name}\n\n````{language}\n{file.read_text(encoding='utf-8')}````"


def describe_commands() -> Iterator[str]:
    """Yield every command with its options, as the parser of the command line has them."""
    from permafrost.pipeline.cli.parser import build_parser, list_parsers

    parser = build_parser()
    (listed,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    helps = {one.dest: one.help for one in listed._choices_actions}
    commands = list_parsers(parser)
    defaults = find_defaults()
    names = [f"[{name}](#{name})" for name in commands]
    yield f"{', '.join(names)}; and [of every command](#of-every-command)\n"
    for name, command in commands.items():
        yield f"\n## {name}\n\n{capitalize(helps[name])}.\n\n```{{program}} {name}\n```\n"
        *own, shared = command._action_groups
        for group in own:
            yield from describe_group(group, defaults)
    yield "\n## Of every command\n\n```{program} permafrost\n```\n"
    yield from describe_group(shared, defaults, title="")


def describe_group(
    group: argparse._ArgumentGroup, defaults: dict[str, str], title: str | None = None
) -> Iterator[str]:
    """Yield the options of a group, under its title if it has one of its own."""
    actions = [one for one in group._group_actions if one.dest != "help"]
    title = group.title if title is None else title
    if actions and title not in ("", "options", "positional arguments"):
        yield f"\n**{capitalize(title)}**\n"
    for action in actions:
        yield describe_option(action, defaults)


def capitalize(text: str | None) -> str:
    """Return a text with a capital at its beginning, and nothing else changed."""
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}"


def describe_option(action: argparse.Action, defaults: dict[str, str]) -> str:
    """Return an option as a directive, with its choices, help and default."""
    default = str(action.default)
    if default == argparse.SUPPRESS:
        default = "" if action.required else defaults[action.dest]  # that of the field
    default = _SHOWN.get(default, default)
    value = action.metavar or "|".join(map(str, action.choices or ()))
    # Sphinx takes commas for the next spelling of the same option.
    flags = ", ".join(f"{flag} {value}".strip() for flag in action.option_strings)
    # Names stay as they are typed, so a help text begins as it does in the terminal.
    text = re.sub(r"(?<![\w`-])(--[a-z][a-z-]+)", r"`\1`", action.help or "")
    words = [f"{text}." if text else "", "**Required.**" if action.required else ""]
    if default and "default:" not in text:
        words.append(f"Default: `{default}`.")
    return f"```{{option}} {flags or value}\n{' '.join(filter(None, words))}\n```\n"


def find_defaults() -> dict[str, str]:
    """Return the defaults of the fields that declare options, of all modules that are loaded."""
    found: dict[str, str] = {}
    for name in [name for name in sys.modules if name.startswith("permafrost.pipeline.")]:
        for kind in vars(sys.modules[name]).values():
            if is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == name:
                found |= {one.name: _tell_default(one) for one in fields(kind) if one.metadata}
    return found


def _tell_default(option: Field[Any]) -> str:
    if option.default is MISSING:  # The help says what it depends on.
        return ""
    in_bytes = option.name.endswith("_bytes") and isinstance(option.default, int)
    return f"{option.default / 1e9:g}GB" if in_bytes else str(option.default)
