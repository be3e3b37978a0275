"""exp, log, sin and cos as fixed sequences of IEEE operations, so that all machines give the same tokens and logits.

Libraries differ in the last bits of these functions, and one bit can decide a draw. Here every step is one correctly
rounded addition, multiplication, division or rounding of float64, in this order and never fused, or exact (`frexp`,
`ldexp`). native/sampling/elementary.h has exp and log in C++; sin and cos fill the rotary tables, here alone.

Sums of probabilities are sums of integers, which no order and no division into parts can change: `weights` are
multiples of 2**-44.
"""

from __future__ import annotations

import math

import numpy as np

from geminate.arrays import F64, I64

_LOG2_E = 1.4426950408889634
# ln 2 in two parts. The first has 21 trailing zero bits: its product with an exponent is exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_EXP = [1.0 / math.factorial(k) for k in range(12)]  # Taylor, |r| <= ln 2 / 2: relative error below 2**-46
_LOG = [2.0 / (2 * k + 1) for k in range(10)]  # of log((1 + s) / (1 - s)), |s| < 0.1716: rest below 2**-54 of it
_SQRT_HALF = 0.70710678118654757

_TWO_OVER_PI = 0.63661977236758138
# pi / 2 in three parts of 33 bits and a rest: a product with fewer than 2**20 quarter turns is exact.
_QUARTER = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624871116645580e-21, 8.47842766036889956997e-32)
_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)]  # Taylor, |r| <= pi / 4: rest below 2**-63
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(10)]
_MOST_TURNS = 2**20

WEIGHT_BITS = 44
"""A weight is a multiple of 2**-44: sums over fewer than 2**19 tokens are exact in int64."""


def exp(y: F64) -> F64:
    """e**y for y <= 0, float64; 0 below -700. Relative error below 2**-45."""
    low = np.maximum(y, -700.0)
    n = np.rint(low * _LOG2_E)
    r = (low - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.full_like(r, _EXP[11])
    for coefficient in reversed(_EXP[:11]):
        p = p * r + coefficient
    value: F64 = np.where(y < -700.0, 0.0, np.ldexp(p, n.astype(np.int32)))
    return value


def log(z: F64) -> F64:
    """Natural logarithm of positive finite z, float64. Error below 2 units in the last place."""
    fraction, exponent = np.frexp(z)  # fraction in [1/2, 1)
    small = fraction < _SQRT_HALF
    f = np.where(small, fraction + fraction, fraction) - 1.0
    e = (exponent - small).astype(np.float64)
    s = f / (f + 2.0)
    q = s * s
    series = np.full_like(q, _LOG[9])
    for coefficient in reversed(_LOG[1:9]):
        series = series * q + coefficient
    value: F64 = e * _LN2_HIGH - ((s * (f - series * q) - e * _LN2_LOW) - f)
    return value


def power(base: float, exponent: F64) -> F64:
    """base**exponent for a base of 1 or more and exponents of 0 or more, float64. Relative error below 2**-44."""
    value: F64 = 1.0 / exp(-exponent * log_scalar(base))
    return value


def cos_sin(x: F64) -> tuple[F64, F64]:
    """Cosine and sine of x, 0 <= x < 2**20 quarter turns, float64. Error below 2**-52.

    Reduced by multiples of pi / 2 as Cody and Waite, 1980, do.

    Raises:
        ValueError: a larger or negative x.
    """
    turns = np.rint(x * _TWO_OVER_PI)
    if x.size and not (x.min() >= 0.0 and turns.max() < _MOST_TURNS):
        raise ValueError(f"cos_sin takes 0 to {_MOST_TURNS} quarter turns")
    r = x
    for part in _QUARTER:
        r = r - turns * part
    q = r * r
    sine, cosine = np.full_like(q, _SIN[-1]), np.full_like(q, _COS[-1])
    for coefficient in reversed(_SIN[:-1]):
        sine = sine * q + coefficient
    for coefficient in reversed(_COS[:-1]):
        cosine = cosine * q + coefficient
    sine = sine * r
    quarter = turns.astype(np.int64) & 3
    swapped = (quarter & 1).astype(np.bool_)
    c, s = np.where(swapped, sine, cosine), np.where(swapped, cosine, sine)
    return np.where((quarter == 1) | (quarter == 2), -c, c), np.where(quarter >= 2, -s, s)


def log_scalar(z: float) -> float:
    """`log` of one number."""
    return float(log(np.array([z]))[0])


def weights(y: F64) -> I64:
    """e**y for y <= 0 as an integer, int64: to the nearest multiple of 2**-44; 0 below -31.2."""
    scaled = np.ldexp(exp(np.maximum(y, -40.0)), WEIGHT_BITS)
    whole: I64 = np.rint(scaled).astype(np.int64)
    return whole
