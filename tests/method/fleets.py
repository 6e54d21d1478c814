"""Fleets of teachers, and their assembly as a caller does it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from ukd_dist.method.assembly import Assembly
from ukd_dist.method.reference import observe
from ukd_dist.method.weighting import Method, Weighting

METHODS: tuple[Method, ...] = get_args(Method)
LOGITS = [Weighting(method=method) for method in METHODS if method != "avg1"]
PROBS = [Weighting(method=method, space="probs", temperature=20.0) for method in METHODS]
WEIGHTINGS = LOGITS + PROBS

Fleet = tuple[Tensor, Tensor]
PartialFleet = tuple[Tensor, Tensor, Tensor]


def name_of(weighting: Weighting) -> str:
    return f"{weighting.method}-{weighting.space}"


def among(*methods: Method, weightings: list[Weighting] = WEIGHTINGS) -> list[Weighting]:
    return [weighting for weighting in weightings if weighting.method in methods]


def all_but(*methods: Method, weightings: list[Weighting] = WEIGHTINGS) -> list[Weighting]:
    return [weighting for weighting in weightings if weighting.method not in methods]


@st.composite
def fleets(draw: st.DrawFn, min_teachers: int = 1, max_teachers: int = 5) -> Fleet:
    """Logits up to +-1e4 of several teachers, float32 [K, n, C], and labels [n]."""
    k, n, c = (
        draw(st.integers(min_teachers, max_teachers)),
        draw(st.integers(1, 5)),
        draw(st.integers(2, 12)),
    )
    scale = draw(st.sampled_from([30.0, 1e4]))
    logits = draw(arrays(np.float32, (k, n, c), elements=st.floats(-scale, scale, width=32)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


@st.composite
def partial_fleets(draw: st.DrawFn, weighting: Weighting, min_teachers: int = 1) -> PartialFleet:
    """A fleet, and which teachers cover which rows, bool [K, n]: one each row of `single`, else one or more.

    Where a teacher does not cover a row, its logits are NaN.
    """
    logits_knc, labels_n = draw(fleets(min_teachers))
    k, n = logits_knc.shape[:2]
    first_n = torch.from_numpy(draw(arrays(np.int64, n, elements=st.integers(0, k - 1))))
    covers_kn = torch.nn.functional.one_hot(first_n, k).T.bool()
    if weighting.method != "single":
        covers_kn |= torch.from_numpy(draw(arrays(np.bool_, (k, n))))
    return logits_knc.masked_fill(~covers_kn.unsqueeze(2), torch.nan), labels_n, covers_kn


@st.composite
def opinions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits up to +-1e4, float32 [n, C], and labels [n]."""
    n, c = draw(st.integers(1, 6)), draw(st.integers(2, 13))
    logits = draw(arrays(np.float32, (n, c), elements=st.floats(-1e4, 1e4, width=32)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def shares(num_classes: int) -> st.SearchStrategy[float]:
    return st.floats(1 / num_classes, 0.9999)


def random_fleet(num_teachers: int, num_rows: int, num_classes: int, seed: int = 0) -> Fleet:
    generator = torch.Generator().manual_seed(seed)
    logits_knc = torch.randn(num_teachers, num_rows, num_classes, generator=generator) * 5
    return logits_knc, torch.randint(num_classes, (num_rows,), generator=generator)


def observed(
    weighting: Weighting, logits_knc: Tensor, labels_n: Tensor, covers_kn: Tensor | None = None
) -> Tensor | None:
    """The reference over these teachers, [n]; none where a weighting needs none."""
    if not weighting.compares:
        return None
    reference_n = torch.full(labels_n.shape, -torch.inf, dtype=torch.float64)
    for k, logits_nc in enumerate(logits_knc):
        observe(weighting, logits_nc, labels_n, reference_n, None if covers_kn is None else covers_kn[k])
    return reference_n


def assemble(
    weighting: Weighting,
    logits_knc: Tensor,
    labels_n: Tensor,
    covers_kn: Tensor | None = None,
    *,
    reference_n: Tensor | None = None,
) -> Assembly:
    """The sums of these teachers, by their own reference if none is given."""
    if reference_n is None:
        reference_n = observed(weighting, logits_knc, labels_n, covers_kn)
    assembly = Assembly(weighting, *logits_knc.shape[1:], reference_n=reference_n)
    for k, logits_nc in enumerate(logits_knc):
        assembly.add(logits_nc, labels_n, None if covers_kn is None else covers_kn[k])
    return assembly


def same_bytes(ours: Assembly, theirs: Assembly) -> bool:
    our_state, their_state = ours.sums.state(), theirs.sums.state()
    return our_state.keys() == their_state.keys() and all(
        torch.equal(our_state[name], their_state[name]) for name in our_state
    )
