from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ukd_dist.data.rowarray import Checks, RowArray, open_arrays
from ukd_dist.data.rowmemory import RowMemory
from ukd_dist.errors import DataError

CPU = torch.device("cpu")
ROWS = torch.tensor([1499, 0, 7, 7])


def written(path: Path, tensor: torch.Tensor) -> RowArray:
    payload = save({"other": torch.zeros(3), "target": tensor})
    path.write_bytes(payload)
    return open_arrays(path, Checks.of(payload))[1]["target"]


@pytest.mark.parametrize("held_bytes", [2**20, 100], ids=["held", "mapped"])
def test_rows_are_gathered_by_their_numbers(tmp_path: Path, held_bytes: int) -> None:
    target = torch.randn(1500, 11)

    memory = RowMemory(written(tmp_path / "t.safetensors", target), CPU, held_bytes)

    assert memory.held == (held_bytes > 100)
    assert torch.equal(memory[(ROWS,)], target[ROWS])


@pytest.mark.parametrize("held_bytes", [2**20, 100], ids=["held", "mapped"])
def test_of_several_views_each_row_gives_the_one_asked_for(tmp_path: Path, held_bytes: int) -> None:
    target, views = torch.randn(1500, 3, 5), torch.tensor([2, 0, 1, 2])

    memory = RowMemory(written(tmp_path / "t.safetensors", target), CPU, held_bytes)

    assert torch.equal(memory[ROWS, views], target[ROWS, views])


@pytest.mark.parametrize("held_bytes", [2**20, 100], ids=["held", "mapped"])
def test_an_altered_array_is_named_before_a_row_is_given(tmp_path: Path, held_bytes: int) -> None:
    array = written(tmp_path / "t.safetensors", torch.randn(1500, 11))
    content = bytearray(array.path.read_bytes())
    content[-1] ^= 1
    array.path.write_bytes(content)

    with pytest.raises(DataError, match="was altered in rows 1024 to 1499 of 'target'"):
        RowMemory(array, CPU, held_bytes)


MEASURE = """
import sys, torch
from pathlib import Path
from ukd_dist.data.rowarray import open_arrays
from ukd_dist.data.rowmemory import RowMemory

array = open_arrays(Path(sys.argv[1]), None)[1]["target"]
own_kib = lambda: int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])
before = own_kib()
memory = RowMemory(array, torch.device("cpu"), int(sys.argv[2]))
rows = memory[(torch.arange(0, len(memory._rows), 10_000),)]
print(own_kib() - before)
"""


def test_a_mapped_array_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    array = written(tmp_path / "t.safetensors", torch.zeros(300_000, 100))

    def grown_kib(held_bytes: int) -> int:
        command = [sys.executable, "-c", MEASURE, str(array.path), str(held_bytes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    whole_kib = 300_000 * 100 * 4 // 1024
    assert grown_kib(2**30) > whole_kib
    assert grown_kib(2**20) < whole_kib / 4
