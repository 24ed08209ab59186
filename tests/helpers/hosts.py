"""Two hosts on one machine: network namespaces with a cable between, and names of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace.

    Attributes
    ----------
    name, address : str
    """

    name: str
    address: str

    @property
    def before(self) -> tuple[str, ...]:
        """What to start a process with, so that it runs there."""
        script = f'hostname {self.name} && exec "$@"'
        return ("ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", script, "sh")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts; skip the test where this machine does not allow it."""
    import pytest

    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, ip and unshare")
    number = os.getpid()
    hosts = Host(f"a{number}", "10.77.0.1"), Host(f"b{number}", "10.77.0.2")
    try:
        for host in hosts:
            if _ip("netns", "add", host.name).returncode:
                pytest.skip("this machine allows no network namespaces")
            _ip("-n", host.name, "link", "set", "lo", "up")
        first, second = hosts
        cable = ("link", "add", "cable", "netns", first.name, "type", "veth")
        if _ip(*cable, "peer", "name", "cable", "netns", second.name).returncode:
            pytest.skip("this machine allows no virtual networks")
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "cable")
            _ip("-n", host.name, "link", "set", "cable", "up")
        yield hosts
    finally:
        for host in hosts:
            _ip("netns", "del", host.name)


def _ip(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False)
