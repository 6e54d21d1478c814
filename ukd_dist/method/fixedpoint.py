"""Sums whose bytes do not depend on the order of their terms: integers in two limbs.

A term x is held as high = round(x * 2^14) and low = round((x * 2^14 - high) * 2^43), each summed in int64.
The resolution is 2^-57. |x| < 2^29 and fewer than 2^20 terms keep each limb's sum within 63 bits, so limbs
are summed without carrying and cannot wrap. Who adds checks both limits.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIGH_BITS = 14
LOW_BITS = 43
MAX_TERM = 2.0**29
MAX_TERMS = 2**20 - 1

# Adding 1.5 * 2^52 rounds a float64 of less than 2^51 to an integer, which then stands in its lowest bits:
# the conversion to int64 is a subtraction of integers, several times as fast as torch's own.
_ROUNDING = 1.5 * 2.0**52
_ROUNDING_BITS = int(torch.tensor(_ROUNDING, dtype=torch.float64).view(torch.int64))


class ExactSum:
    """A running sum of float64 tensors of one shape, exact but for the rounding of each term to 2^-57.

    Args:
        shape: Shape of a term.

    Attributes:
        limbs: High and low limbs, int64 [2, *shape].
    """

    def __init__(self, *shape: int) -> None:
        self.limbs = torch.zeros(2, *shape, dtype=torch.int64)

    def add(self, terms: Tensor, sign: int = 1, rows: slice = slice(None)) -> None:
        """Adds sign * terms to some of the first dimension's rows.

        Args:
            terms: float64, of the shape of those rows, each |x| < 2^29; overwritten.
            sign: 1 or -1.
            rows: Which rows.
        """
        for limb, bits in zip(self.limbs, (HIGH_BITS, LOW_BITS), strict=True):
            rounded = terms.mul_(2.0**bits).add(_ROUNDING)
            terms.sub_(rounded.sub(_ROUNDING))
            limb[rows].add_(rounded.view(torch.int64).sub_(_ROUNDING_BITS), alpha=sign)

    def merge(self, other: ExactSum) -> None:
        """Adds another sum of the same shape."""
        self.limbs += other.limbs

    def value(self) -> Tensor:
        """Returns the sum as float64, as exact as float64 is.

        The low limbs of K terms are worth at most K * 2^-15: rounding them loses no more than K * 2^-68.
        """
        high, low = self.limbs[0], self.limbs[1]
        return high.double() * 2.0**-HIGH_BITS + low.double() * 2.0 ** -(HIGH_BITS + LOW_BITS)
