"""Functions run as other users of this machine, as only root can."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")


@dataclass(frozen=True)
class User:
    """Numbers are enough: the system asks for no names."""

    uid: int
    group: int
    umask: int = 0o022

    def run(self, function: Callable[[], None]) -> None:
        """Call a function in a process of this user; it must not raise."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(self.group)
                os.setuid(self.uid)
                os.umask(self.umask)
                function()
                status = 0
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Let all threads of this process, which is root's, have the rights of another user alone."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def shared_folder(*, group: int, mode: int) -> Iterator[Path]:
    """Make a folder that everybody can reach, which those of `tmp_path` are not."""
    top = Path(tempfile.mkdtemp(prefix="permafrost-team-"))
    try:
        top.chmod(0o755)
        folder = top / "cache"
        folder.mkdir()
        os.chown(folder, 0, group)
        folder.chmod(mode)
        yield folder
    finally:
        shutil.rmtree(top)
