"""The reduction's arithmetic over logits, compiled: cross entropies, entropies, and terms of exact sums.

A row gives the same bytes in whatever block of rows it comes, at any number of threads and on any processor:
a row is computed by itself, in an order that is written here. For speed several rows are computed side by
side, in a tile with classes along its first dimension, so that the compiler finds independent lanes to
vectorise; it may neither reorder nor contract (numba without fastmath), and where a product and a sum are
rounded once, that is said (`_fma`). exp is computed here for the same reason, since mathematical libraries
differ in their last bit; of the C library only log is used, once a row.

Plain functions of numpy arrays that their callers have checked; torch's tensors come in by `.numpy()`.
Callers import this module where they compute: numba takes a fifth of a coordinator's memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_LANES = 16  # rows of a tile: two vectors of 8 float64, and 400 classes stay in a core's cache

# Adding 1.5 * 2^52 rounds a float64 of less than 2^51 to an integer, which then stands in its lowest bits.
_ROUNDING = 1.5 * 2.0**52
_ROUNDING_BITS = int(np.float64(_ROUNDING).view(np.int64))

# exp(x) = 2^k exp(r), k = round(x / ln 2), |r| <= ln(2) / 2, by its Taylor series to r^11: within 1e-14 (ln 2
# in two parts as in fdlibm's e_exp.c). Below -700 it is exp(-700), 1e-304: nothing beside the largest's 1.
_LEAST = -700.0
_LOG2E = 1.0 / math.log(2.0)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11 = (1.0 / math.factorial(i) for i in range(2, 12))

Array = np.ndarray[Any, Any]
_inline = numba.njit(inline="always", error_model="numpy")


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in: each process compiles it anew
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def largest_bits(bits: Array, magnitude: int) -> int:
    """Returns the largest magnitude, as bits, of floating-point numbers; above infinity's if any is NaN.

    Args:
        bits: The numbers' bits, int32 or int64, one-dimensional.
        magnitude: All bits but the sign's.
    """
    largest = bits[0] & magnitude
    for i in range(bits.size):
        largest = max(largest, bits[i] & magnitude)
    return int(largest)


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
    tile, largest = np.empty((num_classes, _LANES)), np.empty(_LANES)
    sums, totals = np.empty(_LANES), np.empty(_LANES)
    for start in range(0, num_rows, _LANES):
        _load(logits_nc, start, tile, largest)
        sums[:], totals[:] = 0.0, 0.0
        for c in range(num_classes):
            for lane in range(_LANES):
                shifted = tile[c, lane] - largest[lane]
                sums[lane] += shifted
                totals[lane] += _exp(shifted)
        for lane in range(min(_LANES, num_rows - start)):
            label = tile[labels_n[start + lane], lane] - largest[lane]
            out_n[start + lane] = math.log(totals[lane]) - on_label * label - on_every * sums[lane]


@_compiled
def entropies(logits_nc: Array, temperature: float, out_n: Array) -> None:
    """Writes H(softmax(z / temperature)) in nats to `out_n`, float64 [n]; logits as in `cross_entropies`."""
    num_rows, num_classes = logits_nc.shape
    tile, largest = np.empty((num_classes, _LANES)), np.empty(_LANES)
    sums, totals = np.empty(_LANES), np.empty(_LANES)
    for start in range(0, num_rows, _LANES):
        _load(logits_nc, start, tile, largest)
        sums[:], totals[:] = 0.0, 0.0
        for c in range(num_classes):
            for lane in range(_LANES):
                shifted = (tile[c, lane] - largest[lane]) / temperature
                power = _exp(shifted)
                sums[lane] += power * shifted
                totals[lane] += power
        for lane in range(min(_LANES, num_rows - start)):
            # log(total) - sum(p z'), of which neither is negative.
            out_n[start + lane] = math.log(totals[lane]) - sums[lane] / totals[lane]


@_compiled
def add_terms(high: Array, low: Array, terms: Array, sign: float) -> None:
    """Adds sign * terms to limbs as `fixedpoint` defines them.

    Args:
        high: int64, one-dimensional, in units of 2^-14.
        low: int64, in units of 2^-57.
        terms: float64, each |x| < 2^29.
        sign: 1 or -1: rounding is symmetric, so what was added is taken out to the bit.
    """
    for i in range(terms.size):
        _add(high, low, i, sign * terms[i])


@_compiled
def values(high: Array, low: Array, out: Array) -> None:
    """Writes what limbs hold, as exact as float64 is, to `out`, float64, one-dimensional."""
    for i in range(out.size):
        out[i] = high[i] * 2.0**-14 + low[i] * 2.0**-57


@_compiled
def add_logits(high_nc: Array, low_nc: Array, logits_nc: Array, weights_n: Array, sign: float) -> None:
    """Adds sign * w z to limbs as `fixedpoint` defines them.

    Args:
        high_nc: int64 [n, C], in units of 2^-14.
        low_nc: int64 [n, C], in units of 2^-57.
        logits_nc: float32 or float64 [n, C].
        weights_n: w, float64 [n]; |w z| < 2^29.
        sign: 1 or -1.
    """
    num_rows, num_classes = logits_nc.shape
    for row in range(num_rows):
        logits, weight, high, low = logits_nc[row], sign * weights_n[row], high_nc[row], low_nc[row]
        for c in range(num_classes):
            _add(high, low, c, logits[c] * weight)


@_compiled
def add_probs(
    high_nc: Array, low_nc: Array, logits_nc: Array, temperature: float, weights_n: Array, sign: float
) -> None:
    """Adds sign * w softmax(z / temperature) to limbs; arguments as in `add_logits`."""
    num_rows, num_classes = logits_nc.shape
    tile, largest, totals = np.empty((num_classes, _LANES)), np.empty(_LANES), np.empty(_LANES)
    for start in range(0, num_rows, _LANES):
        _load(logits_nc, start, tile, largest)
        totals[:] = 0.0
        for c in range(num_classes):
            for lane in range(_LANES):
                power = _exp((tile[c, lane] - largest[lane]) / temperature)
                totals[lane] += power
                tile[c, lane] = power
        for lane in range(min(_LANES, num_rows - start)):
            row = start + lane
            weight, high, low = sign * weights_n[row], high_nc[row], low_nc[row]
            for c in range(num_classes):
                _add(high, low, c, tile[c, lane] / totals[lane] * weight)


def _emit_bits(_: Any, _number: Any) -> Any:
    return types.int64(types.float64), lambda _, builder, __, values: builder.bitcast(*values, ir.IntType(64))


def _emit_float(_: Any, _bits: Any) -> Any:
    return types.float64(types.int64), lambda _, builder, __, values: builder.bitcast(
        *values, ir.DoubleType()
    )


def _emit_fma(_: Any, _a: Any, _b: Any, _c: Any) -> Any:
    return types.float64(*[types.float64] * 3), lambda _, builder, __, values: builder.fma(*values)


# The bits of a float64; the float64 of some bits; and a * b + c rounded once, also where the processor has no
# instruction for it.
_bits: Any = intrinsic(_emit_bits)
_float: Any = intrinsic(_emit_float)
_fma: Any = intrinsic(_emit_fma)


@_inline
def _exp(x: float) -> float:
    """The exponential of a number that is not positive."""
    x = x if x > _LEAST else _LEAST
    shifted = _fma(x, _LOG2E, _ROUNDING)
    power = shifted - _ROUNDING
    r = _fma(-power, _LN2_LOW, _fma(-power, _LN2_HIGH, x))
    p = _fma(r, _C11, _C10)
    p = _fma(r, p, _C9)
    p = _fma(r, p, _C8)
    p = _fma(r, p, _C7)
    p = _fma(r, p, _C6)
    p = _fma(r, p, _C5)
    p = _fma(r, p, _C4)
    p = _fma(r, p, _C3)
    p = _fma(r, p, _C2)
    p = _fma(r, p, 1.0)
    p = _fma(r, p, 1.0)
    return float(_float(_bits(p) + (_bits(shifted) << 52)))


@_inline
def _load(logits_nc: Array, start: int, tile: Array, largest: Array) -> None:
    """Fills the tile with rows from `start` on, and their largest; lanes beyond the last row repeat it."""
    num_rows, num_classes = logits_nc.shape
    largest[:] = -np.inf
    if start + _LANES <= num_rows:
        for c in range(num_classes):
            for lane in range(_LANES):
                value = logits_nc[start + lane, c]
                tile[c, lane] = value
                largest[lane] = value if value > largest[lane] else largest[lane]
        return
    for lane in range(_LANES):
        row = min(start + lane, num_rows - 1)
        for c in range(num_classes):
            value = logits_nc[row, c]
            tile[c, lane] = value
            largest[lane] = value if value > largest[lane] else largest[lane]


@_inline
def _add(high: Array, low: Array, i: int, term: float) -> None:
    """Adds a term to element i of two limbs."""
    scaled = term * 2.0**14
    shifted = scaled + _ROUNDING
    rest = (scaled - (shifted - _ROUNDING)) * 2.0**43 + _ROUNDING
    high[i] += _bits(shifted) - _ROUNDING_BITS
    low[i] += _bits(rest) - _ROUNDING_BITS
