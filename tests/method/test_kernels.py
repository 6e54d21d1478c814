"""The compiled arithmetic: accurate to the last bits, and the same for a row whatever its neighbours."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.method import oracle
from ukd_dist.method import kernels
from ukd_dist.method.fixedpoint import HIGH_BITS, LOW_BITS

NO_CACHE = """
from numba.core.caching import CacheImpl
CacheImpl._locator_classes = []  # as of an installation that cannot be written, for a user without a home
import numpy as np
from ukd_dist.method import kernels
out_n = np.empty(1)
kernels.cross_entropies(np.zeros((1, 4)), np.zeros(1, np.int64), 1.0, 0.0, out_n)
print(out_n[0])
"""

shapes = st.tuples(st.integers(1, 40), st.integers(2, 30))
logits_of_any_size = shapes.flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32))
)


def cross_entropies(logits: NDArray[Any], labels: NDArray[np.int64], h: float) -> NDArray[np.float64]:
    out, rest = np.empty(len(logits)), (1 - h) / (logits.shape[1] - 1)
    kernels.cross_entropies(logits, labels, h - rest, rest, out)
    return out


def entropies(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    out = np.empty(len(logits))
    kernels.entropies(logits, temperature, out)
    return out


def probs(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    high, low = np.zeros((2, *logits.shape), np.int64)
    kernels.add_probs(high, low, logits, temperature, np.ones(len(logits)), 1)
    return np.asarray(high * 2.0**-HIGH_BITS + low * 2.0 ** -(HIGH_BITS + LOW_BITS))


@given(logits_of_any_size, st.floats(0.5, 0.9999))
@settings(deadline=None)
def test_cross_entropies_are_the_oracles(logits: NDArray[np.float32], h: float) -> None:
    labels = np.arange(len(logits)) % logits.shape[1]
    expected = [
        oracle.cross_entropy(oracle.preferred_distribution(label, logits.shape[1], h), row)
        for row, label in zip(logits.astype(np.float64), labels, strict=True)
    ]
    np.testing.assert_allclose(cross_entropies(logits, labels, h), expected, rtol=1e-12)


@given(logits_of_any_size, st.floats(0.5, 60))
@settings(deadline=None)
def test_entropies_and_probabilities_are_the_oracles(logits: NDArray[np.float32], temperature: float) -> None:
    expected = oracle.softmax(logits.astype(np.float64), temperature)
    np.testing.assert_allclose(probs(logits, temperature), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        entropies(logits, temperature), [oracle.entropy(row) for row in expected], rtol=0, atol=1e-12
    )


def test_exponentials_are_as_accurate_as_documented_over_their_whole_range() -> None:
    # Of two logits 0 and -x, probability 2 over probability 1 is exp(-x).
    x = np.concatenate([np.linspace(0, 30, 20_001), np.geomspace(1e-12, 30, 20_001)])
    pair = probs(np.stack([np.zeros_like(x), -x], axis=1), 1.0)
    np.testing.assert_allclose(pair[:, 0], 1 / (1 + np.exp(-x)), rtol=4e-15)
    np.testing.assert_allclose(pair[:, 1], np.exp(-x) / (1 + np.exp(-x)), rtol=1e-14, atol=2.0**-57)


def test_logits_far_below_the_largest_weigh_nothing_and_overflow_nothing() -> None:
    logits = np.array([[5e8, -5e8, 0.0], [700.0, -1.0, -700.0]])
    assert probs(logits, 1.0).tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert (entropies(logits, 1.0) < 1e-290).all()


@pytest.mark.parametrize("num_classes", [2, 11, 400])
def test_a_row_gives_the_same_bytes_alone_and_among_others(num_classes: int) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal((133, num_classes)) * 20).astype(np.float32)
    labels = rng.integers(num_classes, size=133)
    alone = [
        [function(logits[i : i + 1]) for i in range(133)]
        for function in (lambda z: entropies(z, 7.0), lambda z: probs(z, 7.0))
    ]
    assert (entropies(logits, 7.0) == np.concatenate(alone[0])).all()
    assert (probs(logits, 7.0) == np.concatenate(alone[1])).all()
    ce = [cross_entropies(logits[i : i + 1], labels[i : i + 1], 0.99) for i in range(133)]
    assert (cross_entropies(logits, labels, 0.99) == np.concatenate(ce)).all()


def test_known_rows_give_known_bytes() -> None:
    # The same on every processor and with every version of numpy and numba: targets are the same bytes too.
    logits = np.array([[1.0, -2.5, 0.125], [30.0, 29.0, -400.0]], np.float32)
    found = [*cross_entropies(logits, np.array([1, 0]), 0.99), *entropies(logits, 20.0)]
    assert [value.hex() for value in found] == [
        "0x1.eb615a8ca093bp+1",
        "0x1.3befffbcee266p+1",
        "0x1.188e8fe5b0dd6p+0",
        "0x1.62bb3da136584p-1",
    ]


def test_no_folder_is_needed_to_keep_the_compiled_code_in() -> None:
    done = subprocess.run([sys.executable, "-c", NO_CACHE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(np.log(4))
