"""A Ray cluster of several machines on this one: each node is a set of Linux namespaces, joined by a bridge.

A node has its own address, host name, processes, /tmp/ray and /dev/shm, so that it can be killed, cut off and
preempted as a machine can; the file system is common to all, as a cluster's is. A driver has to run on a node
(`Nodes.run`): Ray looks for a raylet's socket in the driver's own /tmp/ray and aborts where there is none.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from tests.links import UNSHARE, Bridge, empty, ip

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 60.0

# Ray's own defaults need 300 s to notice a silent loss.
ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_AUTH_MODE": "disabled",  # a head that finds ~/.ray/auth_token asks for tokens that nodes do not send
    "OMP_NUM_THREADS": "1",
}
HEAD_PORT = 6379
PORTS = {
    "min-worker-port": 20000,
    "max-worker-port": 20999,
    "object-manager-port": 6380,
    "node-manager-port": 6381,
    "dashboard-agent-listen-port": 6382,
    "dashboard-agent-grpc-port": 6383,
    "runtime-env-agent-port": 6384,
    "metrics-export-port": 6385,
}
OBJECT_STORE_BYTES = 80_000_000

# A node's first process. It ends, and takes everything with it, when Ray ends there, and when the process
# that started the node closes the pipe or dies.
INIT = """
mount --bind "$1" /tmp/ray && mount -t tmpfs -o size=1g tmpfs /dev/shm || exit 1
echo "$2" > /proc/sys/kernel/hostname && ip link set lo up || exit 1
shift 2
exec 3<&0
"$@" < /dev/null &
ray=$!
(cat <&3 > /dev/null; kill -9 $ray) &
wait $ray
"""


class Nodes:
    """A cluster of such nodes; node 0 is the head. A context manager that leaves nothing but the folder.

    Args:
        folder: For the nodes' logs, `node<i>.<start>.log`, and their /tmp/ray.
        count: Nodes.
        cpus_per_node: What each node says that it has.
        environment: Of every process, beside `ENVIRONMENT`.

    Attributes:
        address: The cluster's, from any node.
    """

    def __init__(
        self, folder: Path, count: int, cpus_per_node: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._count = folder, count
        self._cpus = cpus_per_node
        self._environment = os.environ | ENVIRONMENT | dict(environment or {})
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[int, Path] = {}
        self._num_heads, self._head_of = 0, dict[int, int]()
        self._commands: list[subprocess.Popen[Any]] = []
        self._bridge = Bridge()
        self.address = f"{self.ip(0)}:{HEAD_PORT}"
        try:
            self.start(*range(count))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Nodes that ever were, the dead ones too."""
        return len(self._nodes)

    def name(self, node: int) -> str:
        """Its host name."""
        return f"{self._bridge.name}n{node}"

    def ip(self, node: int) -> str:
        """Its address."""
        return f"{self._bridge.subnet}.{node + 1}"

    def start(self, *nodes: int) -> None:
        """Start nodes, new or dead ones, each under its own address.

        Raises:
            RuntimeError: One of them did not start.
        """
        for node in sorted(nodes):
            self._launch(node)
            if node == 0:
                wait_until(lambda: _listens(self.ip(0)), START_SECONDS)
        for node in nodes:
            self._await_start(node)

    def revive(self) -> None:
        """Start those of the first nodes that are dead, or belong to a head that is: none joins another."""
        head = self._head_of[0] if self.is_up(0) else None
        lost = [node for node in range(self._count) if not self.is_up(node) or self._head_of[node] != head]
        for node in lost:
            self.kill(node)
        self.start(*lost)

    def add(self) -> int:
        """One more node joins; its number."""
        node = len(self._nodes)
        self.start(node)
        return node

    def kill(self, node: int) -> None:
        """Kill all that still runs on a node; its connections are closed, unless it was cut off before."""
        self._nodes[node].kill()
        self._nodes[node].wait()
        empty(self.name(node))

    def cut(self, node: int) -> None:
        """Pull its cable: nobody hears of it, and what runs there goes on."""
        ip("link", "set", self.name(node), "down")

    def mend(self, node: int) -> None:
        """Put its cable back."""
        ip("link", "set", self.name(node), "up")

    def terminate(self, node: int) -> None:
        """Tell a node to go, as Kubernetes does: SIGTERM to its `ray start --block`, which drains it first.

        SIGTERM to the raylet itself, `raylet(node).terminate()`, kills what runs there within milliseconds.
        """
        ray_start = self.raylet(node).parent()
        assert ray_start is not None
        ray_start.terminate()

    def restart_head(self) -> None:
        """Kill the head, then the other nodes, and start them again: a new cluster under the same address."""
        nodes = [node for node in self._nodes if node == 0 or self.is_up(node)]
        for node in nodes:
            self.kill(node)
        self.start(*nodes)

    def is_up(self, node: int) -> bool:
        """Whether Ray runs there still."""
        return self._nodes[node].poll() is None

    def raylet(self, node: int) -> psutil.Process:
        """Its raylet."""
        return next(process for process in self._processes(node) if process.name() == "raylet")

    def workers(self, node: int) -> list[psutil.Process]:
        """Ray's processes there that run a task now; their pids are this machine's, not the node's."""
        titles = {process: _title(process) for process in self._processes(node)}
        others = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
        return [
            p for p, title in titles.items() if title.startswith("ray::") and not title.startswith(others)
        ]

    def run(self, *command: str, node: int = 0, output: IO[str] | int | None = None) -> subprocess.Popen[str]:
        """Start a command on a node, in the repository's root and with the cluster's RAY_ADDRESS.

        Args:
            command: Such as `"ukd", "run", ...`.
            node: It dies with this node.
            output: As `subprocess` has it, for stdout and stderr together.

        Returns:
            The `nsenter` around the command, which ends as that does; signals are for `inside` of it.
        """
        init = psutil.Process(self._nodes[node].pid).children()[0]
        enter = ["nsenter", f"--target={init.pid}", "--mount", "--pid", "--uts", "--ipc", "--net", "--wd"]
        process = subprocess.Popen(
            [*enter, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=self._environment | {"RAY_ADDRESS": self.address},
        )
        self._commands.append(process)
        return process

    def inside(self, command: subprocess.Popen[str]) -> psutil.Process:
        """The process of a command that `run` started."""
        (process,) = psutil.Process(command.pid).children()
        return process

    def close(self) -> None:
        """End everything."""
        for node in self._nodes.values():
            node.kill()
        self._bridge.remove()
        for process in [*self._nodes.values(), *self._commands]:
            process.wait()

    def _launch(self, node: int) -> None:
        name, start = self.name(node), len(list(self._folder.glob(f"node{node}.*.log")))
        self._num_heads += node == 0
        self._head_of[node] = self._num_heads
        if node in self._nodes:
            self.mend(node)
        else:
            self._bridge.add(name, self.ip(node))
        ray_files = self._folder / f"node{node}.{start}"
        ray_files.mkdir(parents=True)
        Path("/tmp/ray").mkdir(exist_ok=True)  # what the node's own is mounted over
        self._logs[node] = self._folder / f"node{node}.{start}.log"
        init = ["ip", "netns", "exec", name, *UNSHARE, "sh", "-c", INIT, "init", str(ray_files), name]
        with self._logs[node].open("wb") as log:
            self._nodes[node] = subprocess.Popen(
                [*init, *self._ray_start(node)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,  # Ctrl-C is for the tests
                env=self._environment,
            )

    def _ray_start(self, node: int) -> list[str]:
        head = ["--head", f"--port={HEAD_PORT}", "--include-dashboard=false"]
        return [
            *("ray", "start", "--block", "--disable-usage-stats", "--include-log-monitor=false"),
            *(head if node == 0 else [f"--address={self.address}"]),
            f"--node-ip-address={self.ip(node)}",
            f"--num-cpus={self._cpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            *(f"--{name}={port}" for name, port in PORTS.items()),
        ]

    def _await_start(self, node: int) -> None:
        log = self._logs[node]
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text():
            if not self.is_up(node) or time.monotonic() > deadline:
                raise RuntimeError(f"node {node} did not start: {log.read_text()}")
            time.sleep(0.1)

    def _processes(self, node: int) -> list[psutil.Process]:
        return psutil.Process(self._nodes[node].pid).children(recursive=True)


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """The seconds until a condition holds.

    Raises:
        TimeoutError: It did not in `seconds`.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"nothing came in {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - start


def _title(process: psutil.Process) -> str:
    try:
        command = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
    return command[0] if command else ""


def _listens(host: str) -> bool:
    try:
        socket.create_connection((host, HEAD_PORT), 1.0).close()
    except OSError:
        return False
    return True
