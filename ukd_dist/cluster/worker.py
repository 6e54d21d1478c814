"""What surrounds a job in its Ray process: its output goes to a file, and a full disk gets its answer."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ukd_dist.errors import file_error


def run_job(log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a job's function (a Ray task).

    Raises:
        UkdError: What the function raised.
        ResourceError: A file could not be read or written.
    """
    with _output_to(log):
        return function(*arguments)


def run_rank(config: dict[str, Any]) -> None:
    """Call a rank's function (a Ray Train worker); `config` holds log, function and argument."""
    from ray.train import get_context

    with _output_to(Path(f"{config['log']}-rank{get_context().get_world_rank()}.log")):
        config["function"](config["argument"])


_log = logging.getLogger(__name__)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append what this process prints, its libraries' C++ included, to a file; begins with where it runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    saved = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            # Not by print: in its ranks Ray Train prints everything twice.
            file.write(json.dumps(_whereabouts()).encode() + b"\n")
            yield
        except OSError as error:
            _log.exception("failed")
            raise file_error(error) from error
        except Exception:
            _log.exception("failed")
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, original in zip((1, 2), saved, strict=True):
                os.dup2(original, target)
                os.close(original)


def _whereabouts() -> dict[str, Any]:
    import ray

    return {"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname(), "pid": os.getpid()}


def last_line(error: BaseException) -> str:
    """The last line of what an error says, without colours; Ray puts whole tracebacks into its own."""
    lines = [line for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
