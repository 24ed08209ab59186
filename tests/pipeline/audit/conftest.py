"""Digits as pictures in folders, extracted without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.spoilt import spoil_digits, write_digit_folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write digits, 40 of each of three classes, `<class>/<number>.png`."""
    write_digit_folders(tmp_path / "digits")
    return tmp_path / "digits"


@pytest.fixture
def spoil(folder: Path) -> dict[str, Path]:
    """Spoil some of the pictures; return which."""
    return spoil_digits(folder)


@pytest.fixture
def features(command, folder, tmp_path):
    """Extract the pixels themselves; returns the file."""

    def call(*options: object, images: object = folder, out: Path = tmp_path / "f.h5") -> Path:
        answer = command(
            *("extract", "--images", images, "--backbone", "none", "--size", "16"),
            *("--layers", "pixels", "--cache", tmp_path / "cache", "--out", out, *options),
        )
        assert answer.status == 0, answer.err
        return out

    return call
