"""Leases: who computes what, until when, and what becomes of those whose owner is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from permafrost.cache.disk.owners import Owner, name_host
from permafrost.cache.store import leases as module
from permafrost.cache.store.leases import Leases
from tests.helpers import ROOT

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
_HOLDER = """
import sys, time
from pathlib import Path
from permafrost.cache.store.leases import Leases
with Leases(Path(sys.argv[1]), ["k"]) as leases:
    with leases.choosing():
        leases.hold([bytes([1]) * 32], waiting=False)
        if "choosing" in sys.argv:
            print("ready", flush=True)
            time.sleep(600)
    print("ready", flush=True)
    time.sleep(600)
"""


def start_holder(folder: Path, *how: str) -> subprocess.Popen[str]:
    """Start a process that holds the row A of the set k; return once it does."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder), *how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    return holder


def see(leases: Leases) -> set[bytes]:
    with leases.choosing() as others:
        return others.held


def list_leases(folder: Path) -> list[Path]:
    return list(folder.glob("lease-*"))


def test_what_one_holds_another_sees_until_it_lets_go(tmp_path: Path) -> None:
    with Leases(tmp_path, ["k", "l"]) as one, Leases(tmp_path, ["l", "m"]) as other:
        one.hold([A, B], waiting=False)
        assert (see(one), see(other)) == (set(), {A, B})
        one.hold([C], waiting=True)
        with other.choosing() as others:
            assert (others.held, others.n_runs, others.are_waiting) == ({C}, 1, True)
        one.hold([], waiting=False)
        assert see(other) == set()
    assert list_leases(tmp_path) == []


def test_runs_on_other_feature_sets_are_none_of_its_business(tmp_path: Path) -> None:
    with Leases(tmp_path, ["k"]) as one, Leases(tmp_path, ["l"]) as other:
        one.hold([A], waiting=True)
        with other.choosing() as others:
            assert (others.held, others.n_runs, others.are_waiting) == (set(), 0, False)


# Its parent has not looked after it yet: it is a zombie, which still has its number.
@pytest.mark.parametrize("is_reaped", [True, False])
def test_the_lease_of_a_killed_process_ends_at_once(tmp_path: Path, is_reaped: bool) -> None:
    holder = start_holder(tmp_path)
    with Leases(tmp_path, ["k"]) as leases:
        assert see(leases) == {A}
        holder.kill()
        if is_reaped:
            holder.wait()
        else:
            os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert see(leases) == set()
        assert list_leases(tmp_path) == []
    holder.wait()


def test_a_process_number_that_is_used_again_does_not_revive_a_lease(tmp_path: Path) -> None:
    now = Owner.current()
    (tmp_path / f"lease-{Owner(now.host, now.pid, now.start + 1000)}-0").write_bytes(
        b'{"keys": ["k"], "waiting": false}\n' + A
    )
    with Leases(tmp_path, ["k"]) as leases:
        assert see(leases) == set()


def test_a_lease_that_nobody_touches_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another machine only the time tells; and a process that was stopped is as good as dead."""
    foreign = tmp_path / f"lease-{Owner('elsewhere', 7, 7)}-0"
    foreign.write_bytes(b'{"keys": ["k"], "waiting": false}\n' + B)
    holder = start_holder(tmp_path)
    holder.send_signal(signal.SIGSTOP)
    try:
        with Leases(tmp_path, ["k"]) as leases:
            assert see(leases) == {A, B}
            time.sleep(0.3)
            monkeypatch.setattr(module, "EXPIRES_S", 0.2)
            assert see(leases) == set()
    finally:
        holder.kill()
        holder.wait()


def test_a_heart_keeps_a_lease_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    with Leases(tmp_path, ["k"]) as one, Leases(tmp_path, ["k"]) as other:
        one.hold([A], waiting=False)
        (lease,) = list_leases(tmp_path)
        os.utime(lease, (0, 0))
        while lease.stat().st_mtime == 0:
            time.sleep(0.01)
        assert see(other) == {A}


@pytest.mark.parametrize("text", [b"", b"garbage", b"[]\n", b'{"keys": ["k"]}\n', b"\xff\n" + A])
def test_a_torn_lease_holds_nothing(tmp_path: Path, text: bytes) -> None:
    torn = tmp_path / f"lease-{Owner.current()}-77"
    torn.write_bytes(text)
    with Leases(tmp_path, ["k"]) as leases:
        assert see(leases) == set()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EWOULDBLOCK])
def test_without_locks_that_work_choosing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(fcntl, "flock", fail)
    with Leases(tmp_path, ["k"]) as one, Leases(tmp_path, ["k"]) as other:
        one.hold([A], waiting=False)
        assert see(other) == {A}


def test_whoever_is_stopped_while_choosing_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    holder = start_holder(tmp_path, "choosing")
    holder.send_signal(signal.SIGSTOP)
    try:
        with Leases(tmp_path, ["k"]) as leases:
            assert see(leases) == {A}
    finally:
        holder.kill()
        holder.wait()


def test_one_chooses_at_a_time(tmp_path: Path) -> None:
    with Leases(tmp_path, ["k"]) as leases, leases.choosing():
        descriptor = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_where_leases_cannot_be_kept_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "leases"
    folder.write_text("a file")
    with Leases(folder, ["k"]) as leases:
        for _ in range(2):
            assert see(leases) == set()
            leases.hold([A], waiting=False)
    assert len(caplog.messages) == 1
    assert "no leases can be kept" in caplog.messages[0]


def test_on_a_full_disk_no_lease_says_what_is_no_longer_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Leases(tmp_path, ["k"]) as one, Leases(tmp_path, ["k"]) as other:
        one.hold([A], waiting=False)
        # As the limits of a file's size and of a disk's are told: when a file is written.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
        try:
            one.hold([B] * 100, waiting=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert see(other) == set()
        one.hold([C], waiting=False)
        assert see(other) == {C}
    assert len(caplog.messages) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / f".tmp-{name_host()}-{2**22 + 1}-1-0"
    unfinished.write_bytes(A)
    with Leases(tmp_path, ["k"]) as leases:
        see(leases)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
