"""A Pillow whose codecs fail, for the processes that decode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.pictures import encode, photo


def spoil_codecs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        """
import sys
if "permafrost.stages.decoding.isolation" in sys.orig_argv:
    import ctypes, os, time
    from PIL.GifImagePlugin import GifImageFile
    load = GifImageFile.load
    def fail(file):
        said = file.info.get("comment", b"").decode()
        if said == "crash":
            ctypes.string_at(0)
        elif said == "hang":
            time.sleep(1000)
        elif said == "slow":
            time.sleep(0.7)
        elif said == "grow":
            bytearray(10**10)
        elif said == "exit":
            os._exit(7)
        elif said == "babble":
            os.write(0, bytes(range(256)) * 1000)
            time.sleep(1000)
        return load(file)
    GifImageFile.load = fail
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def write_trap(said: str) -> bytes:
    return encode(photo(), "GIF", comment=said)
