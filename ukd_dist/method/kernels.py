"""The reduction's arithmetic over logits, compiled: cross entropies, entropies, and terms of exact sums.

A row gives the same bytes in whatever block of rows it comes, at any number of threads and on any processor:
a row is computed by itself, in an order that is written here. For speed several rows are computed side by
side, in a tile with classes along its first dimension, so that the compiler finds independent lanes to
vectorise; it may neither reorder nor contract (numba without fastmath). exp is computed here for the same
reason, since mathematical libraries differ in their last bit; of the C library only log is used, once a row.

Plain functions of numpy arrays that their callers have checked; torch's tensors come in by `.numpy()`.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_LANES = 16  # rows of a tile: two vectors of 8 float64, and 400 classes stay in a core's cache

# Adding 1.5 * 2^52 rounds a float64 of less than 2^51 to an integer, which then stands in its lowest bits.
_ROUNDING = 1.5 * 2.0**52
_ROUNDING_BITS = int(np.float64(_ROUNDING).view(np.int64))

# exp(x) = 2^k * exp(r), k = round(x / ln 2), |r| <= ln(2) / 2, by its Taylor series: 1 ulp (ln 2 in two parts
# as in fdlibm's e_exp.c). Below -700 it is exp(-700), 1e-304: nothing beside the 1 of a row's largest.
_LEAST = -700.0
_LOG2E = 1.0 / math.log(2.0)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (
    1.0 / math.factorial(i) for i in range(2, 14)
)

Array = np.ndarray[Any, Any]
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
_inline = numba.njit(inline="always", error_model="numpy")


@_compiled
def cross_entropies(
    logits_nc: Array, labels_n: Array, on_label: float, on_every: float, out_n: Array
) -> None:
    """Writes logsumexp(z) - on_label * z_label - on_every * sum(z), for shares that sum to 1.

    Args:
        logits_nc: float32 or float64 [n, C], finite.
        labels_n: int64 [n].
        on_label: Share of the label's logit.
        on_every: Share of every logit.
        out_n: float64 [n].
    """
    num_rows, num_classes = logits_nc.shape
    shifted, powers, exps = _tile(num_classes), _tile(num_classes), _tile(num_classes)
    sums, totals = np.empty(_LANES), np.empty(_LANES)
    for start in range(0, num_rows, _LANES):
        _load_less_max(logits_nc, start, shifted)
        _exp(shifted, powers, exps)
        _sum_classes(exps, totals)
        _sum_classes(shifted, sums)
        for lane in range(min(_LANES, num_rows - start)):
            label = shifted[labels_n[start + lane], lane]
            out_n[start + lane] = math.log(totals[lane]) - on_label * label - on_every * sums[lane]


@_compiled
def entropies(logits_nc: Array, temperature: float, out_n: Array) -> None:
    """Writes H(softmax(z / temperature)) in nats to `out_n`, float64 [n]; logits as in `cross_entropies`."""
    num_rows, num_classes = logits_nc.shape
    shifted, powers, exps = _tile(num_classes), _tile(num_classes), _tile(num_classes)
    sums, totals = np.empty(_LANES), np.empty(_LANES)
    for start in range(0, num_rows, _LANES):
        _load_less_max(logits_nc, start, shifted)
        _divide(shifted, temperature)
        _exp(shifted, powers, exps)
        _sum_classes(exps, totals)
        _multiply(shifted, exps)
        _sum_classes(shifted, sums)
        for lane in range(min(_LANES, num_rows - start)):
            # log(total) - sum(p z'), of which neither is negative.
            out_n[start + lane] = math.log(totals[lane]) - sums[lane] / totals[lane]


@_compiled
def add_logits(high_nc: Array, low_nc: Array, logits_nc: Array, weights_n: Array, sign: int) -> None:
    """Adds sign * w z to limbs as `fixedpoint` defines them.

    Args:
        high_nc: int64 [n, C], in units of 2^-14.
        low_nc: int64 [n, C], in units of 2^-57.
        logits_nc: float32 or float64 [n, C].
        weights_n: w, float64 [n]; |w z| < 2^29.
        sign: 1 or -1.
    """
    num_rows, num_classes = logits_nc.shape
    rounded, rest = np.empty(num_classes), np.empty(num_classes)
    for row in range(num_rows):
        logits, weight = logits_nc[row], weights_n[row]
        for c in range(num_classes):
            rounded[c] = logits[c] * weight
        _add_row(high_nc[row], low_nc[row], rounded, rest, sign)


@_compiled
def add_probs(
    high_nc: Array, low_nc: Array, logits_nc: Array, temperature: float, weights_n: Array, sign: int
) -> None:
    """Adds sign * w softmax(z / temperature) to limbs; arguments as in `add_logits`."""
    num_rows, num_classes = logits_nc.shape
    shifted, powers, exps = _tile(num_classes), _tile(num_classes), _tile(num_classes)
    totals = np.empty(_LANES)
    rounded, rest = np.empty(num_classes), np.empty(num_classes)
    for start in range(0, num_rows, _LANES):
        _load_less_max(logits_nc, start, shifted)
        _divide(shifted, temperature)
        _exp(shifted, powers, exps)
        _sum_classes(exps, totals)
        for lane in range(min(_LANES, num_rows - start)):
            row = start + lane
            for c in range(num_classes):
                rounded[c] = exps[c, lane] / totals[lane] * weights_n[row]
            _add_row(high_nc[row], low_nc[row], rounded, rest, sign)


@_inline
def _tile(num_classes: int) -> Array:
    return np.empty((num_classes, _LANES))


@_inline
def _load_less_max(logits_nc: Array, start: int, tile: Array) -> None:
    """Fills the tile with rows from `start` on, each less its largest; lanes beyond the last repeat it."""
    num_rows, num_classes = logits_nc.shape
    largest = np.empty(_LANES)
    for lane in range(_LANES):
        row = min(start + lane, num_rows - 1)
        for c in range(num_classes):
            tile[c, lane] = logits_nc[row, c]
    for lane in range(_LANES):
        largest[lane] = tile[0, lane]
    for c in range(1, num_classes):
        for lane in range(_LANES):
            value = tile[c, lane]
            largest[lane] = value if value > largest[lane] else largest[lane]
    for c in range(num_classes):
        for lane in range(_LANES):
            tile[c, lane] -= largest[lane]


@_inline
def _exp(tile: Array, powers: Array, out: Array) -> None:
    """Exponentials of a tile that is nowhere positive; `powers` is scratch."""
    flat_in, flat_powers, flat_out = tile.ravel(), powers.ravel(), out.ravel()
    for i in range(flat_in.size):
        x = flat_in[i]
        x = x if x > _LEAST else _LEAST
        shifted = x * _LOG2E + _ROUNDING
        power = shifted - _ROUNDING
        r = (x - power * _LN2_HIGH) - power * _LN2_LOW
        p = _C12 + r * _C13
        p = _C11 + r * p
        p = _C10 + r * p
        p = _C9 + r * p
        p = _C8 + r * p
        p = _C7 + r * p
        p = _C6 + r * p
        p = _C5 + r * p
        p = _C4 + r * p
        p = _C3 + r * p
        p = _C2 + r * p
        p = 1.0 + r * p
        flat_out[i] = 1.0 + r * p
        flat_powers[i] = shifted
    bits, powers_bits = flat_out.view(np.int64), flat_powers.view(np.int64)
    for i in range(bits.size):
        bits[i] += powers_bits[i] << 52


@_inline
def _divide(tile: Array, by: float) -> None:
    flat = tile.ravel()
    for i in range(flat.size):
        flat[i] /= by


@_inline
def _multiply(tile: Array, by: Array) -> None:
    flat, flat_by = tile.ravel(), by.ravel()
    for i in range(flat.size):
        flat[i] *= flat_by[i]


@_inline
def _sum_classes(tile: Array, out: Array) -> None:
    """The sum of each lane, class after class."""
    for lane in range(_LANES):
        out[lane] = 0.0
    for c in range(tile.shape[0]):
        for lane in range(_LANES):
            out[lane] += tile[c, lane]


@_inline
def _add_row(high: Array, low: Array, terms: Array, rest: Array, sign: int) -> None:
    """Adds sign * terms to one row of limbs; overwrites terms."""
    for c in range(terms.size):
        scaled = terms[c] * 2.0**14
        shifted = scaled + _ROUNDING
        rest[c] = (scaled - (shifted - _ROUNDING)) * 2.0**43 + _ROUNDING
        terms[c] = shifted
    high_bits, low_bits = terms.view(np.int64), rest.view(np.int64)
    for c in range(terms.size):
        high[c] += sign * (high_bits[c] - _ROUNDING_BITS)
        low[c] += sign * (low_bits[c] - _ROUNDING_BITS)
