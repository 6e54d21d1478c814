"""Where Prometheus finds who serves a run's metrics: files in the form that its file discovery reads.

`targets.json` names the run's own exporter, `nodes.json` Ray's nodes, which serve their metrics themselves.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ukd_dist.manifest import write_atomically

TARGETS = "targets.json"
NODES = "nodes.json"
REFRESH_SECONDS = 5.0
_log = logging.getLogger(__name__)


@contextmanager
def naming_target(file: Path, run: str, address: str) -> Iterator[None]:
    """Name a `host:port` that serves metrics of a run, until the end or until another one is named there."""
    content = _targets(run, [address])
    write_atomically(file, content)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if file.read_bytes() == content:
                file.unlink()


@contextmanager
def following(file: Path, run: str, addresses: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Name in a file, while it is open, whatever addresses there are; nodes come and go.

    Args:
        file: Written when the addresses change, removed at the end.
        run: The experiment's name.
        addresses: Gives those of now; called in a thread.
    """
    stop = threading.Event()

    def follow() -> None:
        known: Sequence[str] = []
        while not stop.is_set():
            try:
                found = sorted(addresses())
                if found != known:
                    write_atomically(file, _targets(run, found))
                    known = found
            except OSError as error:  # a full disk must not end the thread
                _log.warning("%s was not written: %s", file, error)
            stop.wait(REFRESH_SECONDS)

    file.unlink(missing_ok=True)  # a killed coordinator's
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        file.unlink(missing_ok=True)


def _targets(run: str, addresses: Sequence[str]) -> bytes:
    return json.dumps([{"targets": list(addresses), "labels": {"run": run}}]).encode() + b"\n"
