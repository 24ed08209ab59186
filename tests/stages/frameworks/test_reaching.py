"""Servers that refuse, say no, or say nothing, as behind a firewall that drops everything."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from permafrost.stages.frameworks import reaching
from permafrost.stages.frameworks.reaching import asking_before_downloads, is_reached
from permafrost.stages.frameworks.start import start_keras
from tests.helpers.serving import serve_folder

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Listen, take connections, and never answer; its URL."""
    monkeypatch.setattr(reaching, "PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_says_no_is_reached(tmp_path: Path) -> None:
    with serve_folder(tmp_path) as url:
        assert is_reached(f"{url}/nothing/here.h5")


def test_a_server_that_refuses_or_says_nothing_is_not_reached(silent: str) -> None:
    assert not is_reached(f"{CLOSED}/file.h5")
    assert not is_reached(f"{silent}/file.h5")
    assert not is_reached("nonsense")


def test_keras_does_not_wait_for_a_server_that_says_nothing(silent: str, tmp_path: Path) -> None:
    start_keras()
    import keras

    with (
        asking_before_downloads(),
        pytest.raises(Exception, match=f"on {silent}/w.h5: .*does not answer"),
    ):
        keras.utils.get_file("w.h5", f"{silent}/w.h5", cache_dir=tmp_path)


def test_keras_downloads_what_is_reached(tmp_path: Path) -> None:
    start_keras()
    import keras

    (tmp_path / "w.h5").write_bytes(b"weights")
    with serve_folder(tmp_path) as url, asking_before_downloads():
        file = keras.utils.get_file("w.h5", f"{url}/w.h5", cache_dir=tmp_path / "cache")
    assert Path(file).read_bytes() == b"weights"
