"""A piece of work at another number of torch's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Value = TypeVar("Value")


def with_threads(number: int, work: Callable[[], Value]) -> Value:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return work()
    finally:
        torch.set_num_threads(before)
