"""Engines: how a step is taken. One plain, one DeepSpeed's; the loop knows neither.

Both are given a network and an optimizer. In float32 they take the same steps.
"""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from ukd_dist.training import deepspeed_op, partitions
from ukd_dist.training.finetuning import LR_SCALE
from ukd_dist.training_config import Training


class Engine(Protocol):
    """What the loop needs of an engine.

    Attributes:
        network: Whose weights it changes.
        device: Where they are.
        rank: This process's number.
        ranks: How many there are.
    """

    network: nn.Module
    device: torch.device
    rank: int
    ranks: int

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode, in the training's precision."""

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass; the last of a step's parts updates the weights at learning rate `lr`."""

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of every rank's `values`."""

    def from_rank_0(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""

    def wait_for_ranks(self) -> None:
        """Return when every rank has come here."""

    def share_buffers(self) -> None:
        """Give every rank the mean of all ranks' batch-norm statistics."""

    def state(self) -> dict[str, Any]:
        """Weights, buffers and optimizer state, as far as they are rank 0's to keep."""

    def part(self) -> dict[str, Any]:
        """What is each rank's own: batch-norm statistics and its part of the optimizer's state."""

    def load(self, state: dict[str, Any], parts: Sequence[dict[str, Any]]) -> None:
        """Take up what `state` returned, and `part` on every rank; they may have been more or fewer."""


class PlainEngine:
    """One process, torch alone.

    Args:
        network: The network.
        optimizer: Of its parameters.
        device: Where it is trained.
        settings: Precision, forward passes a step and clipping.
    """

    rank, ranks = 0, 1

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, settings: Training
    ) -> None:
        self.device = device
        self.network = network.to(device)
        self._optimizer = optimizer
        self._settings = settings
        self._parts = 0  # of the step that is being taken

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode, in the training's precision."""
        self.network.train()
        bf16 = self._settings.precision == "bf16"
        with (
            _sound(self._settings, self.device),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
        ):
            logits: torch.Tensor = self.network(clips_bcthw)
        return logits

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass; the last of a step's parts updates the weights at learning rate `lr`."""
        if self._parts == 0:
            self._optimizer.zero_grad(set_to_none=True)
        with _sound(self._settings, self.device):
            (loss / self._settings.accumulate).backward()  # type: ignore[no-untyped-call]
        self._parts = (self._parts + 1) % self._settings.accumulate
        if self._parts == 0:
            if self._settings.clip_norm is not None:
                clip_grad_norm_(self.network.parameters(), self._settings.clip_norm)
            _set_lr(self._optimizer, lr)
            self._optimizer.step()

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """`values`: there is one rank."""
        return values

    def from_rank_0(self, value: int) -> int:
        """`value`: there is one rank."""
        return value

    def wait_for_ranks(self) -> None:
        """Nobody to wait for: there is one rank."""

    def share_buffers(self) -> None:
        """Nothing to share: there is one rank."""

    def state(self) -> dict[str, Any]:
        """Weights, buffers and optimizer state."""
        return {"model": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def part(self) -> dict[str, Any]:
        """Nothing more: there is one rank."""
        return {}

    def load(self, state: dict[str, Any], _: Sequence[dict[str, Any]]) -> None:
        """Take up what `state` returned."""
        self.network.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed's engine over an initialised torch.distributed process group (gloo or NCCL).

    Args:
        network: The network.
        optimizer: A torch optimizer of its parameters; DeepSpeed's own ones compile extensions.
        device: cpu takes DeepSpeed's CPU accelerator.
        settings: Precision, batch, ZeRO stage and clipping.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, settings: Training
    ) -> None:
        self.device = device
        self.rank = torch.distributed.get_rank()
        self.ranks = torch.distributed.get_world_size()
        self._settings = settings
        deepspeed = _deepspeed(device)
        if device.type == "cpu":
            deepspeed_op.load()
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=network.to(device),
            optimizer=optimizer,
            config=deepspeed_config(settings, self.ranks),
            dist_init_required=False,
        )
        # One rank has nobody's gradients to add, and would copy all of its own into buckets and back.
        self._engine.enable_backward_allreduce = self.ranks > 1 or settings.zero > 0
        self.network = self._engine.module

    def forward(self, clips_bcthw: torch.Tensor) -> torch.Tensor:
        """Logits in training mode, in the training's precision."""
        self._engine.train()
        with _sound(self._settings, self.device):
            logits: torch.Tensor = self._engine(clips_bcthw)
        return logits

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Backward pass; the last of a step's averages gradients over the ranks and updates at rate `lr`."""
        _set_lr(self._optimizer, lr)
        with _sound(self._settings, self.device):
            self._engine.backward(loss)
        self._engine.step()

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum of every rank's `values`."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def from_rank_0(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""
        if self.ranks == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return int(shared)

    def wait_for_ranks(self) -> None:
        """Return when every rank has come here."""
        self.sum_over_ranks(torch.zeros(1, device=self.device)).item()

    def share_buffers(self) -> None:
        """Give every rank the mean of all ranks' batch-norm statistics.

        Each rank normalises training clips with its own batch, so this changes no training step; it lets
        the saved network know all of the data.
        """
        buffers = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        if self.ranks > 1 and buffers:
            whole = self.sum_over_ranks(torch.cat([buffer.flatten() for buffer in buffers])) / self.ranks
            for buffer, mean in zip(buffers, torch.split(whole, [b.numel() for b in buffers]), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def state(self) -> dict[str, Any]:
        """Weights, buffers and, without ZeRO, the optimizer's state: equal on every rank but for buffers."""
        optimizer = {} if self._settings.zero else {"optimizer": self._optimizer.state_dict()}
        return {"model": self.network.state_dict(), **optimizer}

    def part(self) -> dict[str, Any]:
        """This rank's batch-norm statistics and, with ZeRO, its part of the optimizer's state."""
        optimizer = {"optimizer": self._optimizer.optimizer.state_dict()} if self._settings.zero else {}
        return {"buffers": dict(self.network.named_buffers()), **optimizer}

    def load(self, state: dict[str, Any], parts: Sequence[dict[str, Any]]) -> None:
        """Take up what `state` returned, and `part` on every rank; they may have been more or fewer."""
        self.network.load_state_dict(state["model"])
        same = len(parts) == self.ranks
        buffers = (
            parts[self.rank]["buffers"] if same else partitions.mean([part["buffers"] for part in parts])
        )
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])
        if not self._settings.zero:
            self._optimizer.load_state_dict(state["optimizer"])
            return
        self._optimizer.refresh_fp32_params()
        states = [part["optimizer"] for part in parts]
        sizes = [sum(weight.numel() for weight in group) for group in self._optimizer.bit16_groups]
        own = partitions.repartition(states, sizes, self._optimizer.partition_size, self.rank)
        self._optimizer.optimizer.load_state_dict(states[self.rank] if same else own)


def deepspeed_config(settings: Training, ranks: int) -> dict[str, Any]:
    """DeepSpeed's settings of a training. Its clipping is 1.0 unless it is turned off, as it is here."""
    return {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": settings.batch_size // (ranks * settings.accumulate),
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.clip_norm or 0.0,
        "zero_optimization": {"stage": settings.zero},
        "zero_allow_untested_optimizer": True,  # torch's SGD; element by element, as all that are offered
        "torch_autocast": {
            "enabled": settings.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # whose gradients would be averaged in bfloat16
        },
        "steps_per_print": 2**31,
    }


def _deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        # Read at import: on a machine with GPUs DeepSpeed would take them for a training that asked for none.
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed looks for ninja on the PATH even where its op is built; pip puts it beside the interpreter.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    return deepspeed


def _sound(settings: Training, device: torch.device) -> AbstractContextManager[None]:
    """Convolutions whose gradients are right.

    oneDNN's (3.12) in bfloat16 read memory that nobody wrote where a clip has fewer frames than the kernel:
    no two runs are alike, and some are NaN. torch's own take twice the time.
    """
    if settings.precision == "float32" or device.type != "cpu":
        return nullcontext()
    without: AbstractContextManager[None] = torch.backends.mkldnn.flags(enabled=False)
    return without


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)
