"""What surrounds a job in its Ray process: its output goes to a file, and a full disk gets its answer."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ukd_dist.errors import file_error

STARTED_ON = "UKD_STARTED_ON"  # in a rank's environment: the node without which its group ends


def run_job(log: Path, function: Callable[..., Any], arguments: tuple[Any, ...], gpus: bool = False) -> Any:
    """Call a job's function (a Ray task).

    Args:
        log: Where its output goes.
        function: The function.
        arguments: Its arguments.
        gpus: Whether it has a GPU, or a share of one; else it sees none.

    Raises:
        UkdError: What the function raised.
        ResourceError: A file could not be read or written.
    """
    with _output_to(log), nullcontext() if gpus else _without_gpus():
        return function(*arguments)


def run_rank(config: dict[str, Any]) -> Any:
    """Call a rank's function (a Ray Train worker); `config` holds log, function and arguments."""
    from ray.train import get_context

    with _output_to(Path(f"{config['log']}-rank{get_context().get_world_rank()}.log")):
        return config["function"](*config["arguments"])


_log = logging.getLogger(__name__)


@contextmanager
def _without_gpus() -> Iterator[None]:
    """Hide the node's GPUs: Ray (2.60) shows all of them to a task that asked for none."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


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


def current_node() -> str:
    """Ray's id of the node that this process runs on; empty outside of Ray."""
    if "ray" not in sys.modules:  # a process of Ray's has it: seconds that any other one need not spend
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _whereabouts() -> dict[str, Any]:
    return {"node": current_node(), "host": socket.gethostname(), "pid": os.getpid()}


def plain(text: str) -> str:
    """What Ray says, without colours."""
    return re.sub(r"\x1b\[\d+m", "", text)


def last_line(error: BaseException) -> str:
    """The last line of what an error says; Ray puts whole tracebacks into its own."""
    lines = [line for line in plain(str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
