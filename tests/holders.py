"""Processes that hold something, such as a run's root, until a test is done with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holder(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said `held`; it is killed in the end."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
