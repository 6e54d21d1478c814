"""Where a residual network of ours has its parts, as its weights' names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_STAGE = re.compile(r"blocks\.(\d+)\.(?:multipathway_blocks\.\d\.)?res_blocks\.(\d+)\.")


class Layout:
    """Where a network of ours has its parts.

    Args:
        names: Its weights' and buffers' names in their order, without `body.`.

    Attributes:
        blocks: Residual blocks of each stage.
        squeezes: Whether the second convolution's batch norm is followed by squeeze-and-excitation.
    """

    def __init__(self, names: Sequence[str]) -> None:
        found = [match for name in names if (match := _STAGE.search(name))]
        self._stages = sorted({int(match[1]) for match in found})
        self._prefix = found[0].string[: found[0].start()] if found else ""
        self._parallel = any("multipathway" in name for name in names)
        self._head = max(
            (int(m[1]) for n in names if (m := re.search(r"blocks\.(\d+)\.proj\.", n))), default=0
        )
        self._nonlocals = _unique(name.partition("conv_theta.")[0] for name in names if "conv_theta." in name)
        self._middle = _unique(
            name.rpartition(".")[0].partition("branch2.")[2] for name in names if ".conv_b." in name
        )
        self.blocks = [len({match[2] for match in found if int(match[1]) == stage}) for stage in self._stages]
        self.squeezes = any("norm_b.0." in name for name in names)

    def stem(self, pathway: int = 0) -> str:
        """Where a pathway's first convolution and its norm are."""
        return f"{self._prefix}blocks.0.{self._path(pathway)}"

    def block(self, stage: int, block: int, pathway: int = 0) -> str:
        """A residual block of stage 2 to 5."""
        return f"{self._prefix}blocks.{self._stages[stage - 2]}.{self._path(pathway)}res_blocks.{block}."

    def fusion(self, stage: int) -> str:
        """What leads from the fast pathway to the slow one after stage 1 to 5."""
        index = 0 if stage == 1 else self._stages[stage - 2]
        return f"{self._prefix}blocks.{index}.multipathway_fusion."

    def nonlocal_block(self, number: int) -> str:
        """The non-local block of that number, in the order in which clips come by."""
        return self._nonlocals[number]

    @property
    def middle(self) -> list[str]:
        """The parts of a block's second convolution: one, or of ip-CSN 1x1x1, its norm, and depthwise."""
        return self._middle

    @property
    def head(self) -> str:
        """The head's block."""
        return f"{self._prefix}blocks.{self._head}."

    def _path(self, pathway: int) -> str:
        return f"multipathway_blocks.{pathway}." if self._parallel else ""


def _unique(values: Iterable[str]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(values))
