"""Decoding in processes of its own: real crashes, real hangs, real kills."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.isolation import IsolatedDecoder, Isolation, decode_isolated
from permafrost.stages.errors import DecoderError, ImageError, InputError
from tests.helpers import ROOT
from tests.helpers.codecs import spoil_codecs, write_trap
from tests.helpers.garbage import collect, read_as_keras
from tests.helpers.pictures import encode, exif, photo, png
from tests.test_house import HEAVY

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

SPEC = DecodeSpec(height=32, width=32, resize="nearest")
GOOD = encode(photo(), "JPEG")


@pytest.fixture
def codecs_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have children load a Pillow that does what a GIF's comment says."""
    spoil_codecs(tmp_path / "spoilt", monkeypatch)


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(Isolation(timeout_s=30)) as decoder:
        yield decoder


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until_gone(pid: int, *, timeout_s: float) -> bool:
    until_s = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < until_s:
        time.sleep(0.01)
    return not is_running(pid)


def check(decoder: IsolatedDecoder) -> None:
    """Decode a photo, and see that it is right."""
    assert np.array_equal(decoder.decode(GOOD, SPEC).pixels, decode_image(GOOD, SPEC).pixels)


def test_outcomes_are_those_of_threads_for_all_kinds_of_files(decoder: IsolatedDecoder) -> None:
    def outcome(decode: Callable[[bytes, DecodeSpec], object], data: bytes) -> object:
        try:
            decoded = decode(data, SPEC)
        except ImageError as error:
            return str(error)
        return decoded.pixels.tobytes(), decoded.rotated  # type: ignore[attr-defined]

    for specimen in collect():
        expected = outcome(decode_image, specimen.data)
        assert outcome(decoder.decode, specimen.data) == expected, specimen.name
    assert decoder.decode(encode(photo(), "JPEG", exif=exif(6)), SPEC).rotated


def test_every_specimen_is_read_as_keras_reads_it_or_refused_for_its_reason() -> None:
    n_read = n_refused = 0
    for specimen in collect():
        try:
            found, why = decode_image(specimen.data, SPEC).pixels, ""
        except ImageError as error:
            found, why = None, str(error)
        n_read, n_refused = n_read + (found is not None), n_refused + (found is None)
        if specimen.is_own:
            assert found is not None, specimen.name
        elif specimen.reason is not None:
            assert found is None, specimen.name
            assert re.search(specimen.reason, why), (specimen.name, why)
        else:
            assert np.array_equal(found, read_as_keras(specimen.data)), specimen.name
    assert min(n_read, n_refused) > 100


def test_pixels_of_every_size_and_colour_come_back_read_only(decoder: IsolatedDecoder) -> None:
    for height, width, color in ((1, 1, "rgb"), (300, 500, "rgb"), (224, 224, "grayscale")):
        spec = DecodeSpec(height=height, width=width, color=color)
        pixels = decoder.decode(GOOD, spec).pixels
        assert np.array_equal(pixels, decode_image(GOOD, spec).pixels)
        assert not pixels.flags.writeable


@pytest.mark.usefixtures("codecs_fail")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("crash", r"^the decoder crashed \(SIGSEGV\)$"),
        ("exit", r"^the decoder crashed \(exit status 7\)$"),
        ("grow", r"^needed more than 4 GB$"),
    ],
)
def test_a_codec_that_fails_loses_one_image(
    decoder: IsolatedDecoder, said: str, reason: str
) -> None:
    for _ in range(2):
        check(decoder)
        with pytest.raises(DecoderError, match=reason):
            decoder.decode(write_trap(said), SPEC)
    check(decoder)


@pytest.mark.usefixtures("codecs_fail")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_killed_at_work_loses_one_image(
    decoder: IsolatedDecoder, number: signal.Signals
) -> None:
    check(decoder)
    assert decoder.pid
    killer = threading.Timer(0.2, os.kill, (decoder.pid, number))
    killer.start()
    with pytest.raises(DecoderError, match=rf"^the decoder crashed \({number.name}\)$"):
        decoder.decode(write_trap("hang"), SPEC)
    killer.join()
    check(decoder)


def test_a_child_killed_between_images_loses_none(decoder: IsolatedDecoder) -> None:
    check(decoder)
    pid = decoder.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(pid, timeout_s=10)
    check(decoder)
    assert decoder.pid != pid


@pytest.mark.usefixtures("codecs_fail")
def test_a_codec_that_hangs_or_babbles_loses_one_image() -> None:
    with IsolatedDecoder(Isolation(timeout_s=1)) as decoder:
        check(decoder)
        pid = decoder.pid
        with pytest.raises(DecoderError, match=r"^took more than 1 s$"):
            decoder.decode(write_trap("hang"), SPEC)
        assert pid
        assert not is_running(pid)
        check(decoder)
        with pytest.raises(DecoderError, match=r"^the decoder answered nonsense$"):
            decoder.decode(write_trap("babble"), SPEC)
        check(decoder)


def test_memory_is_limited_whatever_the_pixels_say() -> None:
    # A gigabyte of pixels before the first of them is read.
    large = png(16_000, 11_000, bits=8, colour=2)
    with IsolatedDecoder(Isolation(memory_bytes=500_000_000)) as decoder:
        with pytest.raises(DecoderError, match=r"^needed more than 0.5 GB$"):
            decoder.decode(large, SPEC)
        check(decoder)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match=r"^image timeout .*: give some seconds, as 60$"):
        Isolation(timeout_s=seconds)


def test_a_child_that_cannot_start_is_told_once_and_plainly(
    decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for executable, reason in (("/nowhere/python", "No such file"), ("/bin/false", "status 1")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(InputError, match=rf"{reason}.*; run without --isolate$"):
            decoder.decode(GOOD, SPEC)
    monkeypatch.undo()
    check(decoder)


_OWNER = """
import sys, threading
from permafrost.stages.decoding.decode import DecodeSpec
from permafrost.stages.decoding.isolation import IsolatedDecoder, Isolation
decoder = IsolatedDecoder(Isolation(timeout_s=2))
decoder.decode(bytes.fromhex(sys.argv[1]), DecodeSpec(height=8, width=8))
print(decoder.pid, flush=True)
if len(sys.argv) > 2:
    decoder.decode(bytes.fromhex(sys.argv[2]), DecodeSpec(height=8, width=8))
    print("decoded", flush=True)
threading.Event().wait()
"""


@pytest.mark.usefixtures("codecs_fail")
@pytest.mark.parametrize("trap", ["", "hang"])
def test_a_child_ends_with_an_owner_that_is_killed(trap: str) -> None:
    files = [encode(photo(9, 9), "PNG"), *([write_trap(trap)] if trap else [])]
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, *(data.hex() for data in files)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    pid = int(owner.stdout.readline())
    assert is_running(pid)
    owner.kill()
    owner.communicate()
    assert wait_until_gone(pid, timeout_s=30)


@pytest.mark.usefixtures("codecs_fail")
@pytest.mark.parametrize("stopped", ["the owner", "both"])
def test_a_pause_is_no_part_of_an_images_time(stopped: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, encode(photo(9, 9), "PNG").hex(), write_trap("slow").hex()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    pids = [owner.pid, int(owner.stdout.readline())][: 2 if stopped == "both" else 1]
    time.sleep(0.3)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3.5)  # its timeout is 2 s, and a second later its child would end itself
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    try:
        assert owner.stdout.readline() == "decoded\n"
    finally:
        owner.kill()
        owner.communicate()


def test_a_signal_to_the_terminal_s_group_is_the_owner_s(decoder: IsolatedDecoder) -> None:
    check(decoder)
    assert decoder.pid
    assert os.getsid(decoder.pid) == decoder.pid != os.getsid(0)


def test_each_thread_owns_a_child_that_ends_with_it() -> None:
    def decode() -> None:
        decode_isolated(GOOD, SPEC, Isolation())
        pids.update(child.pid for child in psutil.Process().children() if child.pid not in before)
        both.wait()

    before = {child.pid for child in psutil.Process().children()}
    pids: set[int] = set()
    both = threading.Barrier(2)
    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del threads
    gc.collect()
    assert len(pids) == 2
    assert all(wait_until_gone(pid, timeout_s=10) for pid in pids)


def test_daemonic_processes_may_decode_in_children() -> None:
    """Dask's workers are such, which is what process pools refuse to run in."""
    script = """
import multiprocessing, sys
from permafrost.stages.decoding.decode import DecodeSpec
from permafrost.stages.decoding.isolation import Isolation, decode_isolated
def decode():
    data = bytes.fromhex(sys.argv[1])
    assert decode_isolated(data, DecodeSpec(height=8, width=8), Isolation()).pixels.any()
process = multiprocessing.get_context("fork").Process(target=decode, daemon=True)
process.start()
process.join()
sys.exit(process.exitcode)
"""
    small = encode(photo(9, 9), "PNG").hex()
    subprocess.run([sys.executable, "-c", script, small], cwd=ROOT, check=True)


def test_children_load_nothing_heavy() -> None:
    code = "import permafrost.stages.decoding.isolation, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {*HEAVY, "h5py", "yaml", "pydantic", "rich"} & set(done.stdout.split())
