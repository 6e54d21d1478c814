"""Ranks as processes of their own, with a group between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from tests.devices import CPU


@contextmanager
def member_of_group(rank: int, ranks: int, rendezvous: Path, device: torch.device = CPU) -> Iterator[None]:
    """This process as one rank of a gloo group, or of NCCL's on a GPU; a thread each."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    yield
    distributed.destroy_process_group()


def on_ranks(count: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What an importable function returns on each of so many ranks, which are joined in a group.

    What it returns is tensors and plain values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(_call, args=(count, folder, function, arguments), nprocs=count)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def _call(rank: int, count: int, folder: Path, function: Callable[..., Any], arguments: Any) -> None:
    with member_of_group(rank, count, folder / "rendezvous"):
        torch.save(function(*arguments), folder / f"{rank}.pt")
