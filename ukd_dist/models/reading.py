"""A checkpoint's file to its tensors by name, whoever wrote it. Nothing in it is ever run.

safetensors; torch's own files, new and old, by their reader for weights alone; Caffe2's blobs. What is
wrapped around the weights (epoch, optimizer, configuration) is left; names stay as they are.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ukd_dist.errors import DataError, file_error
from ukd_dist.models.blobs import read_blobs

_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that torch wrote before 1.6
_PICKLE = b"\x80"
_WEIGHTS_UNDER = ("model_state", "state_dict", "model_state_dict", "model")
_MOMENTUM = "_momentum"  # Caffe2 keeps the optimizer's state among the weights
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; c = torch.load('FILE', weights_only=False); "
    "s.save_file({k: v.contiguous() for k, v in c['state_dict'].items()}, 'FILE.safetensors')\""
)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by name, on the CPU.

    Raises:
        DataError: It holds Python objects, which to read is to run code; it is damaged, holds no tensors, or
            is in no known format.
        ResourceError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_OLD_TORCH))
        tensors = _read(path, head)
    except pickle.UnpicklingError as error:
        raise _holds_code(path, str(error)) from error
    except OSError as error:
        raise file_error(error) from error
    if not tensors:
        raise DataError(
            f"{path} holds no tensors",
            expected=f"weights by name, at the top or under {', '.join(_WEIGHTS_UNDER)}",
            action="save a network's state_dict there",
        )
    return tensors


def _read(path: Path, head: bytes) -> dict[str, torch.Tensor]:
    if head.startswith(_ZIP) or head == _OLD_TORCH:
        return _torch_file(path)
    if head.startswith(_PICKLE):
        blobs = {name: blob for name, blob in read_blobs(path).items() if not name.endswith(_MOMENTUM)}
        return {name: torch.from_numpy(np.array(blob, np.float32)) for name, blob in blobs.items()}
    if head[8:9] == b"{":
        try:
            found: dict[str, torch.Tensor] = load_file(path)
        except SafetensorError as error:
            raise _damaged(path, error) from error
        return found
    raise DataError(
        f"{path} is in no known format",
        expected="safetensors, a file of torch.save, or Caffe2's blobs (.pkl)",
        action="convert it to safetensors",
    )


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    inside = next((found[key] for key in _WEIGHTS_UNDER if _is_mapping_at(found, key)), found)
    pairs: list[tuple[Any, Any]] = list(inside.items()) if isinstance(inside, Mapping) else []
    return {str(name): value for name, value in pairs if isinstance(value, torch.Tensor)}


def _is_mapping_at(found: Any, key: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(key), Mapping)


def _holds_code(path: Path, message: str) -> DataError:
    named = re.search(r"GLOBAL (\S+)", message)
    what = f" ({named[1]})" if named else ""
    return DataError(
        f"{path} holds Python objects{what}, and to read them is to run code",
        expected="tensors alone",
        action=f"if you trust it, convert it elsewhere: {CONVERT}",
    )


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{path} is damaged ({reason})", expected="a checkpoint as it was written", action="fetch it again"
    )
