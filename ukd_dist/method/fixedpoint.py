"""Sums whose bytes do not depend on the order of their terms: integers in two limbs.

A term x is held as high = round(x * 2^14) and low = round((x * 2^14 - high) * 2^43), each summed in int64.
The resolution is 2^-57. |x| < 2^29 and fewer than 2^20 terms keep each limb's sum within 63 bits, so limbs
are summed without carrying and cannot wrap. Who adds asks `check_terms`, and counts the terms.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ukd_dist.errors import DataError
from ukd_dist.method.rows import as_array

HIGH_BITS = 14
LOW_BITS = 43
MAX_TERM = 2.0**29
MAX_TERMS = 2**20 - 1


def check_terms(weights_n: Tensor, logits_nc: Tensor | None, largest: float, *, first_row: int = 0) -> None:
    """Refuses weights, or weighted logits, that a sum has no room for.

    Args:
        weights_n: What rows are multiplied by, float64 [n], at least 0.
        logits_nc: What is multiplied, [n, C]; None: probabilities.
        largest: The largest |z| of all.
        first_row: Number of the block's first row, for messages.

    Raises:
        DataError: If a product is 2^29 or more; names the row of the largest.
    """
    most = 1.0 if logits_nc is None else max(largest, 1.0)
    if len(weights_n) == 0 or float(weights_n.max()) * most < MAX_TERM:
        return  # so is every row's own
    largest_n = weights_n
    if logits_nc is not None:
        largest_n = weights_n * logits_nc.abs().amax(dim=1).clamp(min=1.0)
    if (largest_n >= MAX_TERM).any():
        row = int(largest_n.argmax())
        raise DataError(
            f"a weighted logit of row {first_row + row} is {float(largest_n[row]):g} (its "
            f"weight is {float(weights_n[row]):g})",
            expected="less than 2^29, what the exact sums have room for",
            action="choose h further from 1 or a larger floor, or check the teacher's logits",
        )


class ExactSum:
    """A running sum of float64 tensors of one shape, exact but for the rounding of each term to 2^-57.

    Args:
        shape: Shape of a term.

    Attributes:
        limbs: High and low limbs, int64 [2, *shape].
    """

    def __init__(self, *shape: int) -> None:
        self.limbs = torch.zeros(2, *shape, dtype=torch.int64)

    def add(self, terms: Tensor, sign: int = 1) -> None:
        """Adds sign * terms.

        Args:
            terms: float64, of the sum's shape, each |x| < 2^29.
            sign: 1 or -1.
        """
        from ukd_dist.method import kernels

        high, low = self._limbs()
        kernels.add_terms(
            high.reshape(-1), low.reshape(-1), terms.contiguous().numpy().reshape(-1), float(sign)
        )

    def add_logits(self, logits_nc: Tensor, weights_n: Tensor, sign: int = 1) -> None:
        """Adds sign * w z: as `add` of the products.

        Args:
            logits_nc: float16, float32 or float64 [n, C], the sum's shape.
            weights_n: w, float64 [n]; |w z| < 2^29.
            sign: 1 or -1.
        """
        from ukd_dist.method import kernels

        kernels.add_logits(*self._limbs(), as_array(logits_nc), weights_n.numpy(), float(sign))

    def add_probs(self, logits_nc: Tensor, temperature: float, weights_n: Tensor, sign: int = 1) -> None:
        """Adds sign * w softmax(z / temperature); arguments as in `add_logits`."""
        from ukd_dist.method import kernels

        kernels.add_probs(*self._limbs(), as_array(logits_nc), temperature, weights_n.numpy(), float(sign))

    def merge(self, other: ExactSum) -> None:
        """Adds another sum of the same shape."""
        self.limbs += other.limbs

    def value(self) -> Tensor:
        """Returns the sum as float64, as exact as float64 is.

        The low limbs of K terms are worth at most K * 2^-15: rounding them loses no more than K * 2^-68.
        """
        from ukd_dist.method import kernels

        high, low = self._limbs()
        out = torch.empty(high.shape, dtype=torch.float64)
        kernels.values(high.reshape(-1), low.reshape(-1), out.numpy().reshape(-1))
        return out

    def _limbs(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return self.limbs[0].numpy(), self.limbs[1].numpy()
