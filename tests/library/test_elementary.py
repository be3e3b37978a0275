"""exp, log, sin, cos, powers and weights against mpmath, and the native twins bit for bit."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from geminate import elementary
from geminate.backends.cpu.program import _native, native_available
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


def test_sin_and_cos_are_right_to_their_bound() -> None:
    mpmath.mp.prec = 200
    eighth = math.pi / 4
    near = [np.nextafter(k * eighth, k * eighth + side) for k in (1, 2, 3, 4, 7, 1001, 2**19) for side in (-1, 1)]
    angles = np.concatenate([G.random(800) * 8, G.random(800) * 2**17, np.arange(300.0), near, [0.0, 1e-30]])
    cosine, sine = elementary.cos_sin(angles)
    for x, c, s in zip(angles.tolist(), cosine.tolist(), sine.tolist(), strict=True):
        assert abs(mpmath.cos(mpmath.mpf(x)) - c) < 2.0**-52 and abs(mpmath.sin(mpmath.mpf(x)) - s) < 2.0**-52
    assert elementary.cos_sin(np.array([0.0]))[1].tolist() == [0.0]
    for bad in (-1.0, 2.0**21, math.nan):
        with pytest.raises(ValueError):
            elementary.cos_sin(np.array([bad]))


def test_powers_are_right_to_their_bound() -> None:
    mpmath.mp.prec = 120
    exponents = np.arange(0, 256, 2, dtype=np.float32).astype(np.float64) / 256
    for base in (1.0, 1e4, 1e6):
        for e, made in zip(exponents.tolist(), elementary.power(base, exponents).tolist(), strict=True):
            exact = mpmath.mpf(base) ** mpmath.mpf(e)
            assert abs(made - exact) < exact * mpmath.mpf(2) ** -44


@pytest.mark.skipif(not native_available(), reason="the native module is not built")
def test_native_bits() -> None:
    assert [_native.logarithm(z) for z in POSITIVE.tolist()] == elementary.log(POSITIVE).tolist()
    assert [_native.weight(y) for y in NEGATIVE.tolist()] == elementary.weights(NEGATIVE).tolist()
