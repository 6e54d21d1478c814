"""How far an accuracy, and a mean over a few seeds, is to be trusted; tests of significance are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from ukd_dist.stages.results import Result

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Estimate:
    """A mean and how far to trust it.

    Attributes:
        mean: Mean over seeds.
        margin: Half of the 95% t-interval over seeds; with one seed, one binomial standard error.
        seeds: How many.
    """

    mean: float
    margin: float
    seeds: int

    def text(self, factor: float, digits: int, *, signed: bool = False) -> str:
        """The mean and, where there is one, the margin: `12.3 ± 0.4`."""
        margin = f" ± {factor * self.margin:.{digits}f}" if self.margin else ""
        return f"{factor * self.mean:{'+' if signed else ''}.{digits}f}{margin}"


def estimate(values: Sequence[float], error: float) -> Estimate:
    """Mean and 95% t-interval over seeds; of one value, it and its standard `error`."""
    count = len(values)
    if count == 1:
        return Estimate(values[0], error, 1)
    return Estimate(fmean(values), t_quantile(count - 1) * stdev(values) / math.sqrt(count), count)


def standard_error(result: Result) -> float:
    """Binomial standard error of an accuracy."""
    return math.sqrt(result.top1 * (1 - result.top1) / result.clips)


def t_quantile(dof: int) -> float:
    """The 97.5% quantile of Student's t: a table up to 9 degrees, then Fisher's expansion (within 0.001)."""
    if dof <= len(_T_975):
        return _T_975[dof - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * dof)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
    )
