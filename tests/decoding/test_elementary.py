"""exp, log and weights against mpmath, and their native twins bit for bit."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from geminate.backends.cpu.program import _native, native_available
from geminate.decoding import elementary
from geminate.decoding.noise import stream_key, uniform

G = np.random.default_rng(0)
POSITIVE = np.concatenate(
    [
        G.random(1500),
        G.random(500) * 40,
        2.0 ** G.integers(-60, 60, 300) * (1 + G.random(300)),
        1 - 2.0 ** -G.integers(1, 53, 100),  # uniforms next to 1 make the largest noise
        uniform(stream_key(1, 2, 3), np.arange(500)),
        [2.0**-53, 1 - 2.0**-53, 1.0, math.sqrt(0.5), np.nextafter(math.sqrt(0.5), 0), 2.0**19],
    ]
)
NEGATIVE = -np.concatenate([G.random(1500) * 45, G.random(300) * 1e-9, [0.0, 31.19, 31.2, 39.9, 40.0, 1e9, np.inf]])


def ulps(made: np.ndarray, exact: list[mpmath.mpf]) -> float:
    """The largest error in units in the last place."""
    return max(float(abs(mpmath.mpf(m) - e)) / math.ulp(float(e)) for m, e in zip(made.tolist(), exact, strict=True))


def test_log_is_right_to_two_units() -> None:
    mpmath.mp.prec = 120
    assert ulps(elementary.log(POSITIVE), [mpmath.log(mpmath.mpf(z)) for z in POSITIVE.tolist()]) < 2
    assert elementary.log_scalar(1.0) == 0.0
    assert elementary.log_scalar(5e-324) == pytest.approx(math.log(5e-324), rel=1e-15)  # a tiny min_p


def test_exp_is_right_to_its_bound() -> None:
    mpmath.mp.prec = 120
    y = NEGATIVE[np.isfinite(NEGATIVE) & (NEGATIVE > -700)]
    for value, made in zip(y.tolist(), elementary.exp(y).tolist(), strict=True):
        exact = mpmath.exp(mpmath.mpf(value))
        assert abs(mpmath.mpf(made) - exact) < exact * mpmath.mpf(2) ** -45
    assert elementary.exp(np.array([0.0, -np.inf, -701.0])).tolist() == [1.0, 0.0, 0.0]


def test_weights_are_the_nearest_multiples() -> None:
    mpmath.mp.prec = 120
    made = elementary.weights(NEGATIVE)
    for value, weight in zip(NEGATIVE.tolist(), made.tolist(), strict=True):
        assert abs(mpmath.exp(mpmath.mpf(value)) * 2**44 - weight) < 0.5 + 0.51  # the bound of exp is half a unit
    assert elementary.weights(np.array([0.0, -31.2])).tolist() == [2**44, 0]


@pytest.mark.skipif(not native_available(), reason="the native module is not built")
def test_native_bits() -> None:
    assert [_native.logarithm(z) for z in POSITIVE.tolist()] == elementary.log(POSITIVE).tolist()
    assert [_native.weight(y) for y in NEGATIVE.tolist()] == elementary.weights(NEGATIVE).tolist()
