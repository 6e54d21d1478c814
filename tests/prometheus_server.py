"""Debian's Prometheus on a free port, and what it answers."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest

T = TypeVar("T")


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: sh launch/monitoring/install.sh")
    return found


@contextmanager
def prometheus(folder: Path, configuration: str) -> Iterator[int]:
    """A server that has read a configuration and keeps its data in a folder; yields its port."""
    binary, file, port = program("prometheus"), folder / "prometheus.yml", free_port()
    file.write_text(configuration)
    command = [
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_for(lambda: is_ready(port), "answer of Prometheus")
            yield port
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(port: int) -> bool:
    try:
        get(port, "/-/ready")
    except (ConnectionError, AssertionError):
        return False
    return True


def get(port: int, path: str, accept: str = "text/plain") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text
    finally:
        connection.close()


def ask(port: int, what: str, **parameters: object) -> Any:
    """The `data` of an answer of Prometheus' HTTP API; what is wrong with a query fails the test."""
    return json.loads(get(port, f"/api/v1/{what}?{urlencode(parameters)}"))["data"]


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """The series of an expression now, each with `metric` and `value`."""
    found: list[dict[str, Any]] = ask(port, "query", query=expression)["result"]
    return found


def query_range(port: int, expression: str, begin: float, end: float) -> list[dict[str, Any]]:
    """The series of an expression over some time, a value a second, each with `metric` and `values`."""
    found: list[dict[str, Any]] = ask(port, "query_range", query=expression, start=begin, end=end, step=1)[
        "result"
    ]
    return found


def wait_for(condition: Callable[[], T], what: str, *, seconds: float = 30) -> T:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.1)
    return found
