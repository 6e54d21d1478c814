"""Activation checkpointing: blocks keep their input alone, and are computed again when needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.nn.modules.batchnorm import _BatchNorm

from ukd_dist.errors import UsageError

# pytorchvideo's, of which all networks of ours are made: residual ones, non-local ones, and MViT's.
BLOCKS = {"ResBlock", "NonLocal", "MultiScaleBlock"}


def recompute_activations(network: nn.Module) -> None:
    """Wrap every block, in place. Names of weights and buffers stay, and so do all results.

    Batch-norm statistics are taken in the forward pass alone.

    Raises:
        UsageError: The network, one of the user's, has none of these blocks.
    """
    if not any(map(_is_block, network.modules())):
        raise UsageError(
            "recompute: true of a network without blocks that are known here",
            expected=f"blocks of pytorchvideo's: {', '.join(sorted(BLOCKS))}",
            action="leave recompute out, or use torch.utils.checkpoint in the network itself",
        )
    apply_activation_checkpointing(network, checkpoint_wrapper_fn=_wrapped, check_fn=_is_block)


def _is_block(module: nn.Module) -> bool:
    return type(module).__name__ in BLOCKS


def _wrapped(block: nn.Module) -> nn.Module:
    return checkpoint_wrapper(
        block, checkpoint_impl=CheckpointImpl.NO_REENTRANT, context_fn=partial(_contexts, block)
    )


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the forward pass, and around its repetition."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = batches
