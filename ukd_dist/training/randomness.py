"""The generators that dropout and the like draw from: seeded for an epoch, kept within it."""

from __future__ import annotations

import numpy as np
import torch


def seed(*numbers: int) -> None:
    """Seed torch's generators by several numbers at once."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1)
    torch.manual_seed(int(state))


def state(device: torch.device) -> dict[str, torch.Tensor]:
    """The generators' state on the CPU and, where it is a GPU, on the device."""
    found = {"cpu": torch.get_rng_state()}
    return {**found, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else found


def restore(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Take up what `state` returned, on the CPU."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
