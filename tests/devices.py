"""Devices that a test's body runs on: the CPU in every run, a GPU where there is one (`-m gpu`)."""

from __future__ import annotations

import os

import pytest
import torch

CPU = torch.device("cpu")
DEVICES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(
        torch.device("cuda", 0),
        id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]


def skip_where_deepspeed_is_the_cpus(device: torch.device) -> None:
    """DeepSpeed chooses its accelerator at import: in one process it serves a CPU or a GPU, never both."""
    if device.type == "cuda" and os.environ.get("DS_ACCELERATOR") == "cpu":
        pytest.skip("DeepSpeed was imported for a CPU in this process; run `pytest -m gpu`")
