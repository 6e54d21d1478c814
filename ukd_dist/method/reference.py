"""What a weighting that compares teachers measures them by: one number a row, the largest of their scores.

Every teacher is observed before the first is added; a maximum does not depend on their order, and references
of parts merge by it. Each is then weighed by its lead over the reference alone, so the sums stay exact. Left
out: what the scores are and what is made of a lead, which is `weighting`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ukd_dist.errors import DataError, MismatchError, UsageError
from ukd_dist.method.rows import check_opinion, check_shape, covered_rows, heard_logits
from ukd_dist.method.weighting import Weighting


def observe(
    weighting: Weighting,
    logits_nc: Tensor,
    labels_n: Tensor,
    reference_n: Tensor,
    covers_n: Tensor | None = None,
    *,
    first_row: int = 0,
) -> None:
    """Lets the reference of a weighting that compares see one teacher, in any order.

    References of several groups of teachers are merged by their element-wise maximum.

    Args:
        weighting: One whose `compares` is true.
        logits_nc: The teacher's logits [n, C].
        labels_n: True classes, int64 [n].
        reference_n: The largest score so far, float64 [n], -inf at first; raised in place.
        covers_n: Rows that it has an opinion on, bool [n]; all by default.
        first_row: Number of the block's first row, for messages.

    Raises:
        DataError: If the logits, labels or rows are not as described. The reference is as before then.
    """
    check_shape(logits_nc, (len(reference_n), None), "the reference's rows")
    covers_n = covered_rows(covers_n, len(reference_n))
    logits_nc = heard_logits(logits_nc, covers_n)
    check_opinion(logits_nc, labels_n, first_row=first_row)
    scores_n = weighting.scores(logits_nc, labels_n)
    torch.maximum(reference_n, scores_n.masked_fill_(~covers_n, -torch.inf), out=reference_n)


def lead(
    weighting: Weighting,
    logits_nc: Tensor,
    labels_n: Tensor,
    reference_n: Tensor,
    covers_n: Tensor | None = None,
    *,
    first_row: int = 0,
) -> Tensor:
    """Returns a teacher's score less the reference, float64 [n], at most 0; 0 on rows without its opinion.

    Logits and labels are such as `check_opinion` lets pass, the other arguments as in `observe`.

    Raises:
        DataError: If it leads somewhere: the reference has not seen it.
    """
    lead_n = weighting.scores(logits_nc, labels_n) - reference_n
    if covers_n is not None:
        lead_n.masked_fill_(~covers_n, 0.0)
    if (lead_n > 0.0).any():
        raise DataError(
            f"a teacher leads in row {first_row + int(lead_n.argmax())} that was not observed",
            expected="a reference that has seen every teacher",
            action="observe every teacher before the first is added",
        )
    return lead_n


def needed_reference(weighting: Weighting, reference_n: Tensor | None) -> Tensor | None:
    """Returns the reference where the weighting compares, else None.

    Raises:
        UsageError: If it compares and there is none.
    """
    if not weighting.compares:
        return None
    if reference_n is None:
        raise UsageError(
            f"'{weighting.method}' compares teachers, and there is no reference",
            expected="the reference that every teacher was observed for",
            action="call `observe` with every teacher first",
        )
    return reference_n


def check_same_reference(ours_n: Tensor | None, theirs_n: Tensor | None) -> None:
    """Refuses parts whose teachers were measured against different references.

    Raises:
        MismatchError: If they differ; counts the rows.
    """
    if ours_n is None or theirs_n is None:
        return
    differing = int((ours_n != theirs_n).sum())
    if differing:
        raise MismatchError(
            f"partial sums differ in the reference of {differing} rows",
            expected="one reference, for which the teachers of both were observed",
            action="observe the teachers of all parts before adding any",
        )


def check_led(led_by_n: Tensor, *, first_row: int = 0) -> None:
    """Refuses rows that miss the teacher that made their reference.

    Args:
        led_by_n: Sum over the added teachers of what one that leads has 1 of, float64 [n].
        first_row: Number of the block's first row, for messages.

    Raises:
        DataError: If a sum is less than 1; names the first row.
    """
    leaderless_n = led_by_n < 1.0
    if leaderless_n.any():
        row = first_row + int(leaderless_n.nonzero()[0])
        raise DataError(
            f"the teacher that leads in row {row} was observed and not added",
            expected="a reference of the teachers that are added, and of no other",
            action="add every teacher that was observed, or observe anew those that are to be added",
        )
