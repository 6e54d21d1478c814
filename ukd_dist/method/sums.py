"""A block's running sums over teachers: numerators and denominators of Eq. 9, exact, so that parts merge.

Left out: how a teacher is weighed, and what may be added or taken out, which is `assembly`'s to check before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ukd_dist.method.fixedpoint import ExactSum
from ukd_dist.method.similarity import entropies
from ukd_dist.method.weighting import Weighting


class RunningSums:
    """Sums over the teachers of each row, of x: logits, or probabilities at the weighting's temperature.

    Args:
        weighting: What is summed.
        num_rows: Rows n.
        num_classes: Classes C.

    Attributes:
        numerators: Of each coefficient a: sum_k a_nk x_nk, of terms [n, C].
        denominators: Of each coefficient a: sum_k a_nk, of terms [n].
        entropy: Of `avg1`: sum_k H(softmax(z_nk / tau)), of terms [n].
        opinions: Teachers that each row was given, int64 [n].
    """

    def __init__(self, weighting: Weighting, num_rows: int, num_classes: int) -> None:
        coefficients = 2 if weighting.complements else 1
        self.numerators = [ExactSum(num_rows, num_classes) for _ in range(coefficients)]
        self.denominators = [ExactSum(num_rows) for _ in range(coefficients)]
        self.entropy = ExactSum(num_rows) if weighting.method == "avg1" else None
        self.opinions = torch.zeros(num_rows, dtype=torch.int64)
        self._temperature = weighting.temperature

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        _, num_rows, num_classes = self.numerators[0].limbs.shape
        return num_rows, num_classes

    def add(
        self, sign: int, logits_nc: Tensor, coefficients: tuple[Tensor, ...], covers_n: Tensor | None
    ) -> None:
        """Adds sign times one teacher.

        Args:
            sign: 1 or -1.
            logits_nc: Its logits [n, C].
            coefficients: What each sum multiplies it by, float64 [n] each; 0 on rows without an opinion.
            covers_n: Rows that it has an opinion on, bool [n]; None: all.
        """
        for numerator, coefficient_n in zip(self.numerators, coefficients, strict=True):
            if self._temperature is None:
                numerator.add_logits(logits_nc, coefficient_n, sign)
            else:
                numerator.add_probs(logits_nc, self._temperature, coefficient_n, sign)
        if self.entropy is not None:
            assert self._temperature is not None
            entropy_n = entropies(logits_nc, self._temperature)
            self.entropy.add(entropy_n if covers_n is None else entropy_n.mul_(covers_n), sign)
        for denominator, coefficient_n in zip(self.denominators, coefficients, strict=True):
            denominator.add(coefficient_n, sign)
        self.opinions = self.opinions + (sign if covers_n is None else sign * covers_n)

    def merge(self, other: RunningSums) -> None:
        """Adds sums of other teachers over the same rows."""
        for ours, theirs in zip(self._exact(), other._exact(), strict=True):
            ours.merge(theirs)
        self.opinions = self.opinions + other.opinions

    def left_over(self) -> bool:
        """Whether something remains where no teacher does."""
        empty_n = self.opinions == 0
        return any(bool(total.limbs[:, empty_n].any()) for total in self._exact())

    def state(self) -> dict[str, Tensor]:
        """Returns copies of the sums as named int64 tensors, rows first: what `restore` takes back."""
        named = {f"sum{number}": total.limbs.movedim(0, 1) for number, total in enumerate(self._exact())}
        named["opinions"] = self.opinions
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in named.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes the sums of `state`, which stays as it is, in place of its own."""
        for number, total in enumerate(self._exact()):
            limbs = state[f"sum{number}"].movedim(1, 0)
            total.limbs = limbs.clone(memory_format=torch.contiguous_format)
        self.opinions = state["opinions"].clone()

    def _exact(self) -> list[ExactSum]:
        return [*self.numerators, *self.denominators, *([self.entropy] if self.entropy else [])]
