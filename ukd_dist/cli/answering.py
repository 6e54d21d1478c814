"""What a command answers when it fails: one line on stderr and an exit code; the rest with --debug."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ukd_dist.errors import UkdError, file_error


@contextmanager
def answering(debug: bool) -> Iterator[None]:
    """Answer a user's errors with one line and an exit code; a traceback with --debug only."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
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


def _fail(message: str, exit_code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"ukd: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(exit_code)
