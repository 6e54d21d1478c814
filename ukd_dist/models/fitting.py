"""What of a checkpoint fits a network: as it is, made anew for another input, or not at all.

The classifier stays as it was drawn. First convolutions take other channels: each new one is the mean of
those that there were, scaled so that the response to a constant clip keeps its size. Position embeddings are
interpolated to other clips. Whatever else does not fit is left as it was drawn and named; a checkpoint that
leaves more than a tenth of the network so is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import interpolate

from ukd_dist.errors import DataError, UsageError
from ukd_dist.models.networks import OwnNetwork
from ukd_dist.models.renaming import rename

_BODY = "body."
_COUNTER = "num_batches_tracked"  # Caffe2 has none; it decides nothing where momentum is given
_ENOUGH = 0.9
_SHOWN = 3

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint's tensors, by the network's names unless said otherwise.

    Attributes:
        system: Whose names the checkpoint has, as `PySlowFast's` or `our`.
        loaded: Tensors that were taken, the ones made anew included.
        head: The classifier's, which are drawn.
        averaged: First convolutions whose input channels were averaged.
        interpolated: Position embeddings of another clip.
        missing: Those of the network that the checkpoint lacks; drawn.
        misshapen: Those whose shape is another, with both shapes; drawn.
        unknown: The checkpoint's own names of what the network has no place for.
    """

    system: str
    loaded: int
    head: tuple[str, ...]
    averaged: tuple[str, ...]
    interpolated: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        said = [
            f"{self.loaded} tensors loaded ({self.system} names)",
            f"{len(self.head)} of the head drawn anew",
            f"{len(self.averaged)} first convolutions averaged" if self.averaged else "",
            f"{len(self.interpolated)} position embeddings interpolated" if self.interpolated else "",
            _named("missing", self.missing),
            _named("of another shape", self.misshapen),
            _named("unknown", self.unknown),
        ]
        return ", ".join(part for part in said if part)


def fit(
    network: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    channels: int,
    where: str,
    keep_head: bool = False,
) -> tuple[dict[str, torch.Tensor], Report]:
    """A checkpoint's tensors as the network's.

    Args:
        network: The network.
        tensors: The checkpoint's, by its own names.
        channels: Of the network's clips.
        where: Names the checkpoint in messages.
        keep_head: Take the classifier too: it is of the same classes.

    Returns:
        Tensors by the network's names, in its shapes and types, and what became of the rest.

    Raises:
        DataError: It fits too little, or holds values that are not finite.
        UsageError: Which layer is the classifier of a network of the user's cannot be told.
    """
    own = network.state_dict()
    ours = {name.removeprefix(_BODY): name for name in own}
    system, renamed = rename(list(tensors), list(ours))
    head = set() if keep_head else classifier_of(network)
    given = {ours[to]: tensors[name] for name, to in renamed.items() if to in ours}
    fitted: dict[str, torch.Tensor] = {}
    averaged, interpolated, misshapen = [], [], []
    for name, value in given.items():
        wanted = own[name].shape
        if name in head:
            continue
        if (
            value.shape != wanted
            and _differs_in(value, wanted, 1)
            and value.dim() == 5
            and wanted[1] == channels
        ):
            value = _averaged(value, channels)
            averaged.append(name)
        elif value.shape != wanted and _differs_in(value, wanted, 1) and "pos_embed" in name:
            value = _interpolated(value, wanted[1], "spatial" in name)
            interpolated.append(name)
        elif value.shape != wanted:
            misshapen.append(f"{name} {_shape(value.shape)} instead of {_shape(wanted)}")
            continue
        _refuse_not_finite(value, name, where)
        fitted[name] = value.to(own[name].dtype).contiguous()
    report = Report(
        system=system,
        loaded=_count(fitted),
        head=tuple(name for name in own if name in head),
        averaged=tuple(averaged),
        interpolated=tuple(interpolated),
        missing=tuple(n for n in own if n not in given and n not in head and not n.endswith(_COUNTER)),
        misshapen=tuple(misshapen),
        unknown=tuple(n for n in tensors if renamed.get(n) not in ours and not n.endswith(_COUNTER)),
    )
    _refuse_too_little(report, _count(own) - len(report.head), where)
    return fitted, report


def classifier_of(network: nn.Module) -> set[str]:
    """Names of the weights of the layer that gives the logits.

    Of our networks the last linear layer or convolution; of the users', whose layers stand in any order, the
    only one with as many outputs as there are classes.

    Raises:
        UsageError: None or several of a user's network have so many.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, _Layer)}
    found = _giving_logits(network, layers) if isinstance(network, OwnNetwork) else list(layers)[-1]
    return {f"{found}.{name}" for name, _ in layers[found].named_parameters()}


def _giving_logits(network: OwnNetwork, layers: Mapping[str, _Layer]) -> str:
    found = [name for name, layer in layers.items() if layer.weight.shape[0] == network.num_classes]
    if len(found) != 1:
        raise UsageError(
            f"arch {network.arch}: which layer is its classifier cannot be told: "
            f"{len(found)} have {network.num_classes} outputs"
            + (f" ({', '.join(name.removeprefix(_BODY) for name in found)})" if found else ""),
            expected="one linear layer or convolution with an output for each class",
            action="let the others have another width, or train it with init: none",
        )
    return found[0]


def _averaged(value: torch.Tensor, channels: int) -> torch.Tensor:
    """A convolution's weights `[out, in, time, height, width]` for another number of input channels."""
    return (value.sum(dim=1, keepdim=True) / channels).expand(-1, channels, -1, -1, -1)


def _interpolated(value: torch.Tensor, places: int, square: bool) -> torch.Tensor:
    """A position embedding `[1, places, width]` at more or fewer places, in a row or in a square."""
    if not square:
        return interpolate(value.mT, places, mode="linear", align_corners=False).mT
    side, wanted = math.isqrt(value.shape[1]), math.isqrt(places)
    grid = value.mT.reshape(1, -1, side, side)
    return interpolate(grid, (wanted, wanted), mode="bilinear", align_corners=False).flatten(2).mT


def _differs_in(value: torch.Tensor, wanted: torch.Size, dimension: int) -> bool:
    """Whether that dimension alone is another."""
    found = list(value.shape)
    return len(found) == len(wanted) and found[:dimension] + found[dimension + 1 :] == [
        *wanted[:dimension],
        *wanted[dimension + 1 :],
    ]


def _count(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(not name.endswith(_COUNTER) for name in tensors)


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape))


def _named(what: str, names: tuple[str, ...]) -> str:
    """How many there are, and the first of them."""
    first = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} {what}" + (f" ({first})" if names else "")


def _refuse_not_finite(value: torch.Tensor, name: str, where: str) -> None:
    if not torch.isfinite(value).all():
        raise DataError(
            f"{where}: {name} holds values that are not finite",
            expected="weights of a network that was trained to its end",
            action="take another checkpoint",
        )


def _refuse_too_little(report: Report, wanted: int, where: str) -> None:
    if report.loaded < _ENOUGH * wanted:
        lacking = ", ".join(
            part
            for part in (
                _named("missing", report.missing),
                _named("of another shape", report.misshapen),
                _named("unknown", report.unknown),
            )
            if not part.startswith("0 ")
        )
        raise DataError(
            f"{where} fits {report.loaded} of {wanted} tensors ({report.system} names): {lacking}",
            expected=f"at least {_ENOUGH:.0%} of the network without its classifier",
            action="take a checkpoint of the same architecture",
        )
