"""The benchmarks of training run from their command lines, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow


def printed_by(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def record_of(script: str, *arguments: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(printed_by(script, *arguments))
    return record


def test_a_steps_phases_are_the_whole_step() -> None:
    (case,) = record_of("step.py", "--small")["cases"].values()
    for shares in case["shares"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)
        assert shares["forward"] > 0.05
        assert shares["backward"] > 0.05
        assert shares["optimizer"] > 0
    assert sum(case["operations"].values()) == pytest.approx(1, abs=0.01)
    assert case["operations"]["convolution"] > 0.1


def test_what_is_measured_on_a_gpu_runs_on_a_cpu() -> None:
    record = record_of("gpu.py", "--device", "cpu", "--small")
    assert record["skipped"] == {}
    assert {name.partition(", ")[2] for name in record["cases"]} == {
        *(
            f"{way}, {teaching}"
            for way in ("bf16, resident", "fp32, resident", "bf16, decoded")
            for teaching in ("none", "K=1", "K=1000", "online K=1")
        ),
        "bf16, channels_last, none",
    }
    cases = record["cases"]
    assert cases["64, bf16, resident, K=1"]["flops"] == cases["64, bf16, resident, none"]["flops"] > 0
    assert cases["64, bf16, resident, online K=1"]["flops"] > cases["64, bf16, resident, none"]["flops"]
    assert set(record["over_none"]) == {name for name in cases if "K=" in name}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_its_benchmark_says_so() -> None:
    assert printed_by("gpu.py") == "skipped: no CUDA device"
