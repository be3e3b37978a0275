"""Pack float weights into the kernel layouts of `geminate.formats.packed`, a block of rows at a time.

int8 is the Q8_0 grid (scale = amax / 127), int4 the Q4_0 grid (scale = extreme / -8), both of ggml, with the
scale rounded to float16 before the codes are taken, so that weights on the grid come back exactly.
"""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I8, U8, U16
from geminate.errors import WeightsError
from geminate.formats.packed import GROUP, TILE_ROWS, PackedMatrix, WeightFormat, padded


def f32_to_bf16(x: F32) -> U16:
    """Round to bfloat16 (nearest, ties to even), any shape; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _checked_scales(scales: F32) -> np.ndarray:
    if not np.isfinite(scales).all() or np.abs(scales).max(initial=0) > 65504:
        raise WeightsError("weights that are not finite or too large for float16 group scales")
    return scales.astype(np.float16)


def _divided(x: F32, scales: np.ndarray) -> F32:
    wide = scales.astype(np.float32)[..., None]
    return np.divide(x, wide, out=np.zeros_like(x), where=wide != 0)


def quantize_int8(groups: F32) -> tuple[I8, np.ndarray]:
    """groups [..., 32] -> codes int8 in -127..127 and scales float16 [...]."""
    scales = _checked_scales(np.abs(groups).max(axis=-1) / np.float32(127))
    codes = np.clip(np.rint(_divided(groups, scales)), -127, 127)
    return codes.astype(np.int8), scales


def quantize_int4(groups: F32) -> tuple[U8, np.ndarray]:
    """groups [..., 32] -> codes uint8 in 0..15 (weight = (code - 8) * scale) and scales float16 [...]."""
    at = np.abs(groups).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(groups, at, axis=-1)[..., 0]
    scales = _checked_scales(extreme / np.float32(-8))
    codes = np.clip(np.floor(_divided(groups, scales) + np.float32(8.5)), 0, 15)
    return codes.astype(np.uint8), scales


def pack_block(rows: F32, fmt: WeightFormat) -> tuple[U8 | U16, U16 | None]:
    """Pack float32 [n, k]; n is padded to 16. Returns (data, scales) for those tiles, flat per tile."""
    n, k = rows.shape
    tiles, groups = padded(n, TILE_ROWS) // TILE_ROWS, padded(k, GROUP) // GROUP
    full = np.zeros((tiles * TILE_ROWS, groups * GROUP), dtype=np.float32)
    full[:n, :k] = rows
    if fmt == "bf16":
        bits = f32_to_bf16(full).reshape(tiles, TILE_ROWS, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(bits), None
    grouped = full.reshape(tiles, TILE_ROWS, groups, GROUP)
    codes: I8 | U8
    codes, scales = quantize_int8(grouped) if fmt == "int8" else quantize_int4(grouped)
    return _tiled(codes.view(np.uint8) ^ np.uint8(0x80) if fmt == "int8" else codes.view(np.uint8), scales, fmt)


def pack_codes(codes: I8, scales: U16, fmt: WeightFormat) -> tuple[U8, U16]:
    """Pack what is already quantized: codes int8 [n, k] and float16 scale bits [n, groups], both taken as they are.

    Args:
        codes: -127..127 for ``int8``, -8..7 for ``int4``.
    """
    n, k = codes.shape
    tiles, groups = padded(n, TILE_ROWS) // TILE_ROWS, padded(k, GROUP) // GROUP
    full = np.zeros((tiles * TILE_ROWS, groups * GROUP), dtype=np.int8)
    full[:n, :k] = codes
    wide = np.zeros((tiles * TILE_ROWS, groups), dtype=np.uint16)
    wide[:n] = scales
    zero = np.int8(-128) if fmt == "int8" else np.int8(8)
    stored = (full ^ zero if fmt == "int8" else full + zero).view(np.uint8)
    return _tiled(
        stored.reshape(tiles, TILE_ROWS, groups, GROUP), wide.view(np.float16).reshape(tiles, TILE_ROWS, groups), fmt
    )


def _tiled(stored: U8, scales: np.ndarray, fmt: WeightFormat) -> tuple[U8, U16]:
    """Bytes of codes [tiles, 16, groups, 32] and scales float16 [tiles, 16, groups] in the order of the kernels."""
    tiles, _, groups, _ = stored.shape
    if fmt == "int8":
        chunks = stored.reshape(tiles, TILE_ROWS, groups, 8, 4)
    else:
        halves = stored.reshape(tiles, TILE_ROWS, groups, 2, 4, 4)
        chunks = halves[:, :, :, 0] | (halves[:, :, :, 1] << np.uint8(4))
    data = np.ascontiguousarray(chunks.transpose(0, 2, 3, 1, 4))
    return data, np.ascontiguousarray(scales.transpose(0, 2, 1)).view(np.uint16)


def pack_matrix(weights: F32, fmt: WeightFormat) -> PackedMatrix:
    """Pack float32 [n, k], or a stack [e, n, k], in memory."""
    stack = weights if weights.ndim == 3 else weights[None]
    packed = [pack_block(np.asarray(w, dtype=np.float32), fmt) for w in stack]
    data: U8 | U16 = np.stack([d for d, _ in packed])  # type: ignore[assignment]
    scales = None if fmt == "bf16" else np.stack([s for _, s in packed if s is not None])
    return PackedMatrix(format=fmt, n=stack.shape[1], k=stack.shape[2], data=data, scales=scales, stack=len(stack))


def pack_rows_int8(rows: F32) -> tuple[I8, U16]:
    """Row-major int8 [n, padded width] and float16 scale bits [n, groups], for a RowTable."""
    n, width = rows.shape
    full = np.zeros((n, padded(width, GROUP)), dtype=np.float32)
    full[:, :width] = rows
    codes, scales = quantize_int8(full.reshape(n, -1, GROUP))
    return codes.reshape(n, -1), scales.view(np.uint16)
