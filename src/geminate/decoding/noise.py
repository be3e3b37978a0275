"""Counter-based noise: a pure function of (seed, choice, position, token id), so nothing is ever rolled back.

The hash is SplitMix64's finalizer (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators") applied as a keyed chain over the counters. native/sampling/noise.h implements the same functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F64, U64
from geminate.elementary import log

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def stream_key(seed: int, choice: int, position: int) -> int:
    """The 64-bit key of one emitted position: mix chain over seed, choice index, absolute position."""
    key = _mix((seed + _GAMMA) & _MASK)
    key = _mix((key ^ choice) + _GAMMA & _MASK)
    return _mix((key ^ position) + _GAMMA & _MASK)


def uniform(key: int, token_ids: NDArray[np.integer]) -> F64:
    """float64 in (0, 1), one per token id: 52 bits of mix(key + (id + 1) * gamma), centred in their cell.

    52 and not 53, so that the centre of every cell is a float64: the last one would round to 1.
    """
    z: U64 = np.uint64(key) + (token_ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbel(seed: int, choice: int, position: int, token_ids: NDArray[np.integer]) -> F64:
    """Standard Gumbel noise, float64 [n] from -3.61 to 36.74, for the token that may stand at ``position``."""
    return -log(-log(uniform(stream_key(seed, choice, position), token_ids)))
