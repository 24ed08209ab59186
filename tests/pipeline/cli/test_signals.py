"""Signals that ask again: real processes, and a real server that never answers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.inputs import LAYERS
from tests.helpers.serving import serve_silence
from tests.resilience.child import Child

N_PHOTOS = 12


@pytest.fixture
def start(photos: Path, backbone: Path, tmp_path: Path) -> Callable[[str], Child]:
    """Start an extraction from a URL."""
    pytest.importorskip("aiohttp")

    def call(url: str) -> Child:
        arguments = [
            *("extract", "--images", f"{url}/", "--backbone", backbone, "--layers", LAYERS),
            *("--cache", tmp_path / "cache", "--out", tmp_path / "features.h5", "--json"),
        ]
        return Child(arguments, output=tmp_path / "output")

    return call


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "n_answers", [pytest.param(0, id="hashing"), pytest.param(N_PHOTOS, id="loading")]
)
def test_whoever_asks_again_does_not_wait_for_a_server_that_never_answers(
    start: Callable[[str], Child], photos: Path, n_answers: int, number: signal.Signals
) -> None:
    with serve_silence(photos, n_answers) as (url, is_silent):
        child = start(url)
        assert is_silent.wait(60)
        child.signal(signal.SIGINT)
        assert not child.wait(0.5), "it waits for what was begun"
        # More than once: on a busy machine Python may not have come to the first one yet, and the
        # system keeps only one of a kind.
        for _ in range(40):
            child.signal(number)
            if child.wait(0.5):
                break
        ending = child.end()
    assert (ending.status, ending.out) == (128 + signal.SIGINT, "")
    assert ending.last_line == "permafrost: interrupted again; what was committed is kept"
    assert "Traceback" not in ending.err


def test_one_press_that_comes_twice_is_one(start: Callable[[str], Child], photos: Path) -> None:
    """As when a program between the terminal and the run passes it on."""
    with serve_silence(photos, 0) as (url, is_silent):
        child = start(url)
        assert is_silent.wait(60)
        for _ in range(3):
            child.signal(signal.SIGINT)
            time.sleep(0.01)
        assert not child.wait(0.5)
        child.signal(signal.SIGINT)
        assert child.end().status == 128 + signal.SIGINT
