"""What a command answers when it fails: one line on stderr and an exit code; the rest with --debug."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

from ukd_dist.errors import UkdError, file_error


@contextmanager
def answering(debug: bool) -> Iterator[None]:
    """Answer a user's errors with one line and an exit code; a traceback with --debug only."""
    level = logging.DEBUG if debug else logging.WARNING
    handlers = [_Stderr()]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", handlers=handlers)
    try:
        yield
    except UkdError as error:
        _fail(str(error), error.exit_code, debug)
    except OSError as error:
        _fail(str(file_error(error)), 1, debug)
    except Exception as error:  # noqa: BLE001 - the boundary: a user gets one line, --debug the rest
        _fail(f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", 1, debug)
    except KeyboardInterrupt:
        _fail("interrupted; run again to go on", 1, debug)


class _Stderr(logging.StreamHandler[TextIO]):
    """To stderr as it is at each record: what stands on a terminal is then printed over, and not the line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self.stream = sys.stderr
        super().emit(record)


def _fail(message: str, exit_code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"ukd: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(exit_code)
