"""What lies in folders beside files: links, pipes, sockets, and names that nobody expects."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.helpers.pictures import encode, photo


def strew(folder: Path) -> dict[bytes, str | None]:
    """Put things into a folder that are no files, or whose names are odd.

    Returns
    -------
    dict
        Names → a pattern of the reason, or None for a photo that must be read.
    """
    odd = {
        b"caf\xe9.jpg": None,
        "日本\u202e.jpg".encode(): None,
        b"two\nlines.jpg": None,
        b"=1+1.jpg": None,
        b" space .jpg": None,
        b"x" * 251 + b".jpg": None,
    }
    for number, name in enumerate(odd):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(
            encode(photo(which=1), "JPEG", quality=50 + number)
        )
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "fifo.jpg")
    links = {
        "loop.jpg": ("loop.jpg", "too many levels"),
        "nowhere.jpg": ("gone/away.jpg", "no such file"),
        "fifo behind a link.jpg": ("fifo.jpg", "not a regular file"),
        "device.jpg": ("/dev/zero", "not a regular file"),
        "empty device.jpg": ("/dev/null", "not a regular file"),
        "memory.jpg": ("/proc/self/mem", "input/output error|permission"),
        "maps.jpg": ("/proc/self/maps", "not an image|changed"),
    }
    for name, (target, _) in links.items():
        (folder / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path may have 107 bytes
        server.bind("socket.jpg")
        os.chdir(here)
    expected: dict[bytes, str | None] = {name.encode(): why for name, (_, why) in links.items()}
    expected |= odd | {b"fifo.jpg": "not a regular file", b"socket.jpg": "not a regular file"}
    if os.geteuid():
        closed = folder / "closed.jpg"
        closed.write_bytes(encode(photo(), "JPEG"))
        closed.chmod(0)
        expected[b"closed.jpg"] = "permission denied"
    return expected
