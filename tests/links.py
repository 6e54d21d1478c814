"""Network namespaces, the bridge that joins them, and how nothing of them is left.

Every name begins with the pid of the process that made it, so that what a killed one left behind can be told
and removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
UNSHARE = ("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
FILES = Path("/etc/netns")
_OURS = re.compile(r"ukd(\d+)b\d(n\d+)?")
_END_SECONDS = 30.0
_serial = itertools.count()


def missing() -> str | None:
    """Why this machine can have no such nodes; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"no `{program}` here (Debian's {package})"
    probe = [*UNSHARE, "--net", "ip", "link", "add", "probe", "type", "bridge"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else None


class Bridge:
    """A network of this machine that namespaces hang on.

    Attributes:
        name: Its link's, and the beginning of its namespaces' names.
        subnet: The first three bytes of its addresses.
    """

    def __init__(self) -> None:
        sweep()
        self.name = f"ukd{os.getpid()}b{next(_serial) % 10}"  # a namespace's link has 15 characters at most
        self.subnet = _free_subnet()
        ip("link", "add", self.name, "type", "bridge")
        ip("address", "add", f"{self.subnet}.254/24", "dev", self.name)
        ip("link", "set", self.name, "up")

    def add(self, name: str, address: str) -> None:
        """A namespace with a cable to the bridge; the cable's end here has the namespace's name."""
        files = FILES / name
        files.mkdir(parents=True)
        # Without these Ray asks a name server that is not there: 30 s.
        (files / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (files / "resolv.conf").touch()
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", name, "master", self.name, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """The bridge, its namespaces and all that runs there."""
        own = re.compile(rf"{self.name}(n\d+)?")
        _remove(lambda name: own.fullmatch(name) is not None)


def sweep() -> None:
    """Remove what processes left behind that are dead now."""

    def is_stale(name: str) -> bool:
        ours = _OURS.fullmatch(name)
        return ours is not None and not psutil.pid_exists(int(ours[1]))

    _remove(is_stale)


def ip(*arguments: str) -> None:
    """Run `ip`, which has to succeed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def pids(namespace: str) -> list[int]:
    """Processes in a namespace."""
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    return [int(pid) for pid in done.stdout.split()]


def empty(namespace: str) -> None:
    """Kill what runs in a namespace, and wait until it is gone: its ports are free then."""
    deadline = time.monotonic() + _END_SECONDS
    while left := pids(namespace):
        assert time.monotonic() < deadline, f"{left} in {namespace} do not die"
        for pid in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        time.sleep(0.05)


def _remove(is_meant: Callable[[str], bool]) -> None:
    for name in filter(is_meant, _names(Path("/run/netns"))):
        empty(name)
        ip("netns", "delete", name)  # and with it both ends of its cable, a moment later
    for name in filter(is_meant, _names(Path("/sys/class/net"))):
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    for name in filter(is_meant, _names(FILES)):
        shutil.rmtree(FILES / name)
    with contextlib.suppress(OSError):
        FILES.rmdir()  # unless others have files there


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _free_subnet() -> str:
    taken = subprocess.run(["ip", "-4", "address"], capture_output=True, text=True, check=True).stdout
    # 198.18.0.0/15 is set aside for measurements: no real network has it.
    subnets = (f"198.18.{(os.getpid() + n) % 256}" for n in range(256))
    return next(subnet for subnet in subnets if f"{subnet}." not in taken)
