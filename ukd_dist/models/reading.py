"""A checkpoint's file to its tensors by name, whoever wrote it. Nothing in it is ever run.

safetensors; torch's own files, new and old, by their reader for weights alone; Caffe2's blobs. What is
wrapped around the weights (epoch, optimizer, configuration) is left; names stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ukd_dist.errors import DataError, file_error
from ukd_dist.models.blobs import ALTERED, read_blobs

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
    except OSError as error:
        raise file_error(error) from error
    except (*ALTERED, SafetensorError) as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error
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
        found: dict[str, torch.Tensor] = load_file(path)
        return found
    raise DataError(
        f"{path} is in no known format",
        expected="safetensors, a file of torch.save, or Caffe2's blobs (.pkl)",
        action="convert it to safetensors",
    )


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    inside = next((found[key] for key in _WEIGHTS_UNDER if _is_mapping_at(found, key)), found)
    pairs: list[tuple[Any, Any]] = list(inside.items()) if isinstance(inside, Mapping) else []
    return {str(name): value for name, value in pairs if isinstance(value, torch.Tensor)}


def _is_mapping_at(found: Any, key: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(key), Mapping)


def _unreadable(path: Path, message: str) -> DataError:
    if named := re.search(r"GLOBAL (\S+)", message):
        return DataError(
            f"{path} holds Python objects ({named[1]}), and to read them is to run code",
            expected="tensors alone",
            action=f"if you trust it, convert it elsewhere: {CONVERT}",
        )
    of_torch = re.search(r"WeightsUnpickler error:\s*(.+)", message)
    reason = of_torch[1] if of_torch else message.splitlines()[0]
    otherwise = ", or save it with pickle_protocol=2" if "Unsupported operand" in reason else ""
    return DataError(
        f"{path} is damaged ({reason.strip()})",
        expected="a checkpoint as it was written",
        action=f"fetch it again{otherwise}",
    )
