"""Tables for people: laid out for the terminal that there is, or in plain columns."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header.

    Attributes
    ----------
    header : tuple of str
        A name that begins with ``>`` is that of a column of figures, set to the right.
    rows : sequence of tuple of str
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def render(parts: Iterable[str | Table]) -> str:
    """Return lines and tables as one text.

    On a terminal, tables are as wide as it is, and headers are bold unless ``NO_COLOR`` is set;
    elsewhere no cell is broken, and nothing is but text.
    """
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=is_terminal,
        force_jupyter=False,
        # Rich itself would keep what is bold.
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        width=None if is_terminal else 10_000,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(
            _lay_out(part) if isinstance(part, Table) else part, soft_wrap=isinstance(part, str)
        )
    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _lay_out(table: Table) -> object:
    from rich.table import Table as RichTable
    from rich.text import Text

    laid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    laid.show_header = any(table.header)
    laid.add_column("")
    for name in table.header:
        justify = "right" if name.startswith(">") else "left"
        laid.add_column(Text(name.removeprefix(">")), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in table.rows:
        laid.add_row("", *map(Text, row))
    return laid


def list_pairs(pairs: Sequence[tuple[str, object]]) -> Table:
    """Return a table of names and what they are; what is empty is left out."""
    rows = [(name, str(value)) for name, value in pairs if value not in ("", None)]
    return Table(header=("", ""), rows=rows)
