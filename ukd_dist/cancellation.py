"""A run is stopped through its root: `ukd cancel` leaves a request there, and the coordinator sees it.

Any machine that sees the root can ask. No signal is sent from outside: a process of another host, container
or user cannot be signalled, and one that a script started in the background ignores SIGINT.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ukd_dist.errors import BusyError, CancelledError
from ukd_dist.rundir import RunDirectory, holder, write_holder
from ukd_dist.status import is_held

_POLL_SECONDS = 0.5


def cancel(run: RunDirectory, patience_seconds: float) -> str | None:
    """Ask the coordinator of a root to stop, and wait until it has.

    Args:
        run: The root.
        patience_seconds: How long to wait.

    Returns:
        Who worked on the root, or None where nobody did.

    Raises:
        BusyError: It did not stop in that time.
    """
    if not is_held(run):
        return None
    request, stopped = _request(run), _holder(run)
    deadline = time.monotonic() + patience_seconds
    try:
        while is_held(run) and _holder(run) == stopped:
            if time.monotonic() > deadline:
                raise BusyError(
                    f"{run.root} is still held by {stopped} after {patience_seconds:g} s",
                    expected="an end within that time",
                    action="wait longer, or kill it: what is finished is kept",
                )
            if not request.exists():  # a coordinator that was about to begin has removed it
                _ask(request)
            time.sleep(_POLL_SECONDS)
    finally:
        request.unlink(missing_ok=True)
    return stopped


@contextmanager
def cancellable(run: RunDirectory) -> Iterator[None]:
    """Stop what runs inside as Ctrl-C does when `ukd cancel` asks; for the main thread of the coordinator.

    Raises:
        CancelledError: That was asked; says by whom.
    """
    request, asked, ended = _request(run), threading.Event(), threading.Event()
    request.unlink(missing_ok=True)  # it was for a coordinator before
    main = threading.get_ident()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            if request.exists():
                asked.set()
                signal.pthread_kill(main, signal.SIGUSR1)  # also ends what the main thread waits for
                return

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt as error:
        if not asked.is_set():
            raise
        raise CancelledError(
            f"{run.root} was cancelled by {_named(request)}",
            expected="a run to its end",
            action="run again to go on",
        ) from error
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)
        request.unlink(missing_ok=True)


def _request(run: RunDirectory) -> Path:
    return run.root / "cancel.json"


def _ask(request: Path) -> None:
    with request.open("wb", buffering=0) as file:
        write_holder(file)


def _holder(run: RunDirectory) -> str:
    return _named(run.root / "coordinator.lock")


def _named(path: Path) -> str:
    """Which process a record of `write_holder` names."""
    try:
        with path.open("rb", buffering=0) as file:
            return holder(file)
    except FileNotFoundError:
        return "another process"
