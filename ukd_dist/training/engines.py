"""Engines: how a step is taken. One plain, one DeepSpeed's; the loop knows neither.

Both are given a model and an optimizer. In float32 without clipping they take the same steps.
"""

from __future__ import annotations

import logging
import os
import sysconfig
from typing import Any, Protocol

import torch
from torch import nn

from ukd_dist.training import deepspeed_op


class Engine(Protocol):
    """What the loop needs of an engine."""

    rank: int
    device: torch.device

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode."""

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass and update at learning rate `lr`."""

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of every rank's `values`."""

    def from_rank_0(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""

    def share_buffers(self) -> None:
        """Give every rank the mean of all ranks' batch-norm statistics."""

    def state(self) -> dict[str, Any]:
        """Weights, buffers and optimizer state."""

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


class PlainEngine:
    """One process, torch alone."""

    rank = 0

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.device = device
        self._model = model.to(device)
        self._optimizer = optimizer

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode."""
        self._model.train()
        logits: torch.Tensor = self._model(clips_bcthw)
        return logits

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass and update at learning rate `lr`."""
        _set_lr(self._optimizer, lr)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """`values`: there is one rank."""
        return values

    def from_rank_0(self, value: int) -> int:
        """`value`: there is one rank."""
        return value

    def share_buffers(self) -> None:
        """Nothing to share: there is one rank."""

    def state(self) -> dict[str, Any]:
        """Weights, buffers and optimizer state."""
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed's engine over an initialised torch.distributed process group (gloo or NCCL).

    Args:
        model: The network.
        optimizer: A torch optimizer of its parameters; DeepSpeed's own ones compile extensions.
        micro_batch: Clips a step on this rank.
        device: cpu takes DeepSpeed's CPU accelerator.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int, device: torch.device
    ) -> None:
        self.device = device
        self.rank = torch.distributed.get_rank()
        deepspeed = _deepspeed(device)
        if device.type == "cpu":
            deepspeed_op.load()
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=model.to(device),
            optimizer=optimizer,
            config=deepspeed_config(micro_batch),
            dist_init_required=False,
        )

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode."""
        self._engine.train()
        logits: torch.Tensor = self._engine(clips_bcthw)
        return logits

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass with gradients averaged over the ranks, and update at learning rate `lr`."""
        _set_lr(self._optimizer, lr)
        self._engine.backward(loss)
        self._engine.step()

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of every rank's `values`."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def from_rank_0(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""
        shared = torch.tensor(value, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return int(shared)

    def share_buffers(self) -> None:
        """Give every rank the mean of all ranks' batch-norm statistics.

        Each rank normalises training clips with its own batch, so this changes no training step; it lets
        one checkpoint serve every rank and the saved model know all of the data.
        """
        for buffer in self._engine.module.buffers():
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer.div_(torch.distributed.get_world_size())

    def state(self) -> dict[str, Any]:
        """Weights, buffers and optimizer state, equal on every rank."""
        return {"model": self._engine.module.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._engine.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def deepspeed_config(micro_batch: int) -> dict[str, Any]:
    """DeepSpeed's settings. Its clipping is 1.0 unless it is turned off, which would change every step."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 0},
        "steps_per_print": 2**31,
    }


def _deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        # Read at import: on a machine with GPUs DeepSpeed would take them for a student that asked for none.
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed looks for ninja on the PATH even where its op is built; pip puts it beside the interpreter.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    return deepspeed


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
