"""Rounding to the formats: bfloat16, and ggml's Q8_0 and Q4_0 grids with their plain rules.

int8 is the Q8_0 grid (scale = amax / 127), int4 the Q4_0 grid (scale = extreme / -8). The scale is rounded to float16
before the codes are taken, so that weights on the grid come back exactly.
"""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.errors import WeightsError


def f32_to_bf16(x: F32) -> U16:
    """Round to bfloat16 (nearest, ties to even), any shape; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def bf16_to_f32(bits: U16) -> F32:
    """Widen bfloat16 bits, any shape, exactly."""
    wide: F32 = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def _checked_scales(scales: F32) -> np.ndarray:
    if not np.isfinite(scales).all() or np.abs(scales).max(initial=0) > 65504:
        raise WeightsError("weights that are not finite or too large for float16 group scales")
    return scales.astype(np.float16)


def _divided(x: F32, scales: np.ndarray) -> F32:
    wide = scales.astype(np.float32)[..., None]
    return np.divide(x, wide, out=np.zeros_like(x), where=wide != 0)


def quantize_int8(groups: F32) -> tuple[I8, np.ndarray]:
    """groups [..., 32] -> codes int8 in -127..127 and scales float16 [...].

    Raises:
        WeightsError: weights that are not finite or too large.
    """
    scales = _checked_scales(np.abs(groups).max(axis=-1) / np.float32(127))
    codes = np.clip(np.rint(_divided(groups, scales)), -127, 127)
    return codes.astype(np.int8), scales


def quantize_int4(groups: F32) -> tuple[I8, np.ndarray]:
    """groups [..., 32] -> codes int8 in -8..7 and scales float16 [...].

    Raises:
        WeightsError: weights that are not finite or too large.
    """
    at = np.abs(groups).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(groups, at, axis=-1)[..., 0]
    scales = _checked_scales(extreme / np.float32(-8))
    codes = np.clip(np.floor(_divided(groups, scales) + np.float32(8.5)), 0, 15) - np.float32(8)
    return codes.astype(np.int8), scales
