"""Run commands as on a terminal, in the current folder, and draw what it shows as an SVG.

That of the README was drawn in a folder with 1,000 photos and a MobileNet, of which the second
command finds all computed::

    python docs/pictures/terminal.py docs/pictures/terminal.svg "$EXTRACT" "$EXTRACT"
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import sys
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

ROOT = Path(__file__).parents[2]
WIDTH = 100
# Rich names fonts of a server, and a picture may not fetch any.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_REDRAWN = re.compile(r"[^\n]*\r\x1b\[2K")
_CURSOR = re.compile(r"\x1b\[\?25[lh]")


def run_in_terminal(command: str) -> str:
    """Run a command of ours in a terminal of `WIDTH` columns; return what is left to see of it."""
    arguments = shlex.split(command.replace("\\\n", " ").removeprefix("python run.py"))
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
        os.execv(sys.executable, [sys.executable, str(ROOT / "run.py"), *arguments])
    termios.tcsetwinsize(terminal, (40, WIDTH))
    written = bytearray()
    try:
        while some := os.read(terminal, 1 << 16):
            written += some
    except OSError:  # Linux says so that the other side has closed it.
        pass
    os.waitpid(child, 0)
    text = _CURSOR.sub("", written.decode().replace("\r\n", "\n"))
    return _REDRAWN.sub("", text)


def draw(commands: list[str], file: Path) -> None:
    """Draw the commands, each below a prompt and above what it shows."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(run_in_terminal(command)))
    svg = console.export_svg(
        title="", theme=DEFAULT_TERMINAL_THEME, code_format=FORMAT, unique_id="terminal"
    )
    # The frame of a white window, on pages that are white as well.
    svg = svg.replace('stroke="rgba(255,255,255,0.35)"', 'stroke="#8c959f"')
    file.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw(sys.argv[2:], Path(sys.argv[1]))
