"""Images that could not be read are not tried again, until something else reads them."""

from __future__ import annotations

from pathlib import Path

import PIL
import pytest

from permafrost.stages.decoding import decode
from permafrost.stages.decoding.formats import Picture
from permafrost.stages.errors import ImageError
from tests.helpers.answers import Command


def test_what_an_older_pillow_refused_is_tried_again_by_a_newer_one(
    extract: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = (photos / "china/0000.jpg").read_bytes()
    read = decode.read_picture

    def read_less(data: bytes, **how: object) -> Picture:
        if data == refused:
            raise ImageError("of a kind that is not known yet")
        return read(data, **how)

    with monkeypatch.context() as older:
        older.setattr(PIL, "__version__", "1.0")
        older.setattr(decode, "read_picture", read_less)
        assert extract().figures["failed"] == 1
        older.setattr(decode, "read_picture", read)
        # It is remembered, and not tried again.
        again = extract().figures
        assert (again["computed"], again["failed"]) == (0, 1)
    newer = extract().figures
    assert (newer["computed"], newer["reused"], newer["failed"]) == (1, 11, 0)
