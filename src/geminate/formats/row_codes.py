"""Codes packed along a row, and rounding to one scale for each row: the storage of Gemma's checkpoints for devices.

Low bits come first. Codes of 2 and 4 bits are stored with an offset of 2 and 8, so without a sign; 8 bits as int8.
The layout is that of transformers 5.24.0, ``integrations/gemma_quant.py``.
"""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I8, U8
from geminate.errors import WeightsError


def packed_width(k: int, bits: int) -> int:
    """Bytes of a row of k codes."""
    return -(-k * bits // 8)


def pack_codes(values: I8, bits: int) -> U8:
    """Signed codes int8 [..., k] to uint8 [..., `packed_width`]; bits behind the last code are zero."""
    if bits == 8:
        return np.ascontiguousarray(values).view(np.uint8)
    *outer, k = values.shape
    each = 8 // bits
    wide = np.zeros((*outer, packed_width(k, bits) * each), dtype=np.uint8)
    wide[..., :k] = (values + np.int8(1 << (bits - 1))).view(np.uint8)
    shifts = (np.arange(each) * bits).astype(np.uint8)
    packed: U8 = np.bitwise_or.reduce(wide.reshape(*outer, -1, each) << shifts, axis=-1)
    return packed


def unpack_codes(packed: U8, bits: int, k: int) -> I8:
    """The inverse of `pack_codes`: uint8 [..., bytes] to int8 [..., k]."""
    if bits == 8:
        return packed.view(np.int8)[..., :k]
    shifts = (np.arange(8 // bits) * bits).astype(np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :k].view(np.int8) - np.int8(1 << (bits - 1))


def quantize_rows(rows: F32, bits: int) -> tuple[I8, F32]:
    """Plain rounding: float32 [n, k] to codes int8 [n, k] and scales [n, 1], the largest magnitude at the lowest code.

    Models for these formats are trained for them; this is for tests and fabricated weights.

    Raises:
        WeightsError: weights that are not finite.
    """
    if not np.isfinite(rows).all():
        raise WeightsError("weights that are not finite")
    lowest = -(1 << (bits - 1))
    scales = (np.abs(rows).max(axis=1, keepdims=True) / np.float32(-lowest)).astype(np.float32)
    codes = np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0)
    return np.clip(np.rint(codes), lowest, -lowest - 1).astype(np.int8), scales


def scaled_rows(codes: I8, scales: F32) -> F32:
    """Codes [n, k] times scales [n, blocks], each for k / blocks columns: float32 [n, k]."""
    n, k = codes.shape
    blocks = codes.reshape(n, scales.shape[1], -1).astype(np.float32)
    out: F32 = (blocks * scales[..., None]).reshape(n, k)
    return out
