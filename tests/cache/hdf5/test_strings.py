from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest

from permafrost.cache.hdf5.strings import read_strings, write_strings

ODD = ["", "plain", "a\nb", "\n", "日本語", os.fsdecode(b"caf\xe9"), "tab\tand\rreturn", "a\0b"]


@pytest.mark.parametrize("texts", [["x"] * 10_000, ODD, ODD * 2000, [*ODD, "é" * 300]])
def test_texts_are_read_as_they_were_written(tmp_path: Path, texts: list[str]) -> None:
    with h5py.File(tmp_path / "texts.h5", "w") as file:
        write_strings(file, "texts", texts)
        assert read_strings(file["texts"]) == texts


def test_a_repeated_text_is_held_once_a_block(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "texts.h5", "w") as file:
        write_strings(file, "texts", ["cat", "dog"] * 5000)
        assert len(set(map(id, read_strings(file["texts"])))) < 10
