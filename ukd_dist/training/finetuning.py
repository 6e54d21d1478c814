"""Fine-tuning on a small set: parts that stay as they are, rates of their own, modes of batch norm."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ukd_dist.errors import UsageError
from ukd_dist.models.networks import VideoNetwork
from ukd_dist.training.recompute import plain_name
from ukd_dist.training_config import Training

LR_SCALE = "lr_scale"  # of a parameter group: its learning rate over the training's


def freeze(network: VideoNetwork, settings: Training) -> None:
    """Keep what `freeze` and `batch_norm: frozen` name as it is, in place, in training mode too.

    A frozen part's weights have no gradient, and its batch norms keep their statistics and normalise with
    them. `batch_norm: frozen` does so to every batch norm, its scale and shift included.

    Raises:
        UsageError: No part has such a name, or nothing is left to train.
    """
    _check_parts(network, settings.freeze)
    for name, weight in network.body.named_parameters():
        weight.requires_grad_(not _belongs(name, settings.freeze))
    norms = {name: part for name, part in network.body.named_modules() if isinstance(part, _BatchNorm)}
    if settings.batch_norm != "frozen":
        norms = {name: norm for name, norm in norms.items() if _belongs(name, settings.freeze)}
    for norm in norms.values():
        norm.requires_grad_(False)
    network.hold(list(norms.values()))
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UsageError(
            f"freeze: {', '.join(settings.freeze)} leaves nothing of {settings.arch} to train",
            expected="at least its classifier free",
            action="name fewer parts",
        )


def parameter_groups(network: VideoNetwork, settings: Training) -> list[dict[str, Any]]:
    """The weights that are trained, as an optimizer's groups, one for each learning rate.

    Raises:
        UsageError: No part has a name that `lr_scale` gives.
    """
    _check_parts(network, settings.lr_scale)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in network.body.named_parameters():
        if weight.requires_grad:
            groups.setdefault(_scale(plain_name(name), settings.lr_scale), []).append(weight)
    return [{"params": weights, LR_SCALE: scale} for scale, weights in groups.items()]


def _check_parts(network: VideoNetwork, names: Iterable[str]) -> None:
    weights = [plain_name(name).split(".") for name, _ in network.body.named_parameters()]
    parts = {".".join(name[:depth]) for name in weights for depth in range(1, len(name) + 1)}
    for name in names:
        if name not in parts:
            near = next(iter(difflib.get_close_matches(name, sorted(parts), n=1)), ".".join(weights[0]))
            raise UsageError(
                f"no part of the network is called '{name}'",
                expected=f"a name as '{near}', or the beginning of one up to a dot",
                action="correct freeze or lr_scale",
            )


def _belongs(name: str, parts: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _scale(name: str, scales: Mapping[str, float]) -> float:
    """Of the longest of the parts' names that a weight belongs to."""
    parts = [part for part in scales if _belongs(name, [part])]
    return scales[max(parts, key=len)] if parts else 1.0
