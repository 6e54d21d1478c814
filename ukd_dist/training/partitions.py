"""What ranks keep each for itself, given to another number of ranks.

ZeRO lays a parameter group out as one flat tensor, padded, and gives each rank an equal part of it; the
optimizer's state of a part is flat tensors of its size, and scalars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad


def mean(buffers: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The ranks' mean of each floating-point buffer; of a count the first rank's."""
    return {
        name: torch.stack([other[name] for other in buffers]).mean(dim=0)
        if first.is_floating_point()
        else first
        for name, first in buffers[0].items()
    }


def repartition(
    states: Sequence[dict[str, Any]], sizes: Sequence[int], partition_sizes: Sequence[int], rank: int
) -> dict[str, Any]:
    """The optimizer's state of one rank of another number of them.

    Args:
        states: `state_dict()` of every rank's optimizer, in order; group g has the one parameter g.
        sizes: Elements of each group, without padding.
        partition_sizes: Elements of each group that a rank has now.
        rank: Which rank's.
    """
    own = {
        group: {
            name: _part([state["state"][group][name] for state in states], sizes[group], size, rank)
            if value.ndim
            else value
            for name, value in states[0]["state"][group].items()
        }
        for group, size in enumerate(partition_sizes)
        if group in states[0]["state"]
    }
    return {"state": own, "param_groups": states[0]["param_groups"]}


def _part(parts: Sequence[torch.Tensor], elements: int, size: int, rank: int) -> torch.Tensor:
    whole = torch.cat(list(parts))[:elements]
    return pad(whole, (0, max(0, (rank + 1) * size - elements)))[rank * size : (rank + 1) * size]
