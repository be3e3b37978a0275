"""Packed weights back to float32: what the reference backend multiplies with and tests compare to."""

from __future__ import annotations

import numpy as np

from geminate.arrays import F32, I32, U16
from geminate.formats.packed import PackedMatrix, RowTable


def bf16_to_f32(bits: U16) -> F32:
    """Widen bfloat16 bits, any shape, exactly."""
    wide: F32 = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def _tiles_to_f32(matrix: PackedMatrix, which: int) -> F32:
    """Matrix ``which`` of the stack, float32 [n_padded, k_padded]."""
    data = matrix.data.reshape(matrix.stack, -1)[which]
    tiles, groups = matrix.n_padded // 16, matrix.k_padded // 32
    if matrix.format == "bf16":
        wide = bf16_to_f32(data.view(np.uint16).reshape(tiles, matrix.k_padded, 16))
        return np.ascontiguousarray(wide.transpose(0, 2, 1)).reshape(matrix.n_padded, -1)
    assert matrix.scales is not None  # quantized formats always carry them
    scales = matrix.scales.reshape(matrix.stack, tiles, groups, 16)[which].view(np.float16)
    codes: np.ndarray
    if matrix.format == "int8":
        chunks = data.reshape(tiles, groups, 8, 16, 4)
        codes = chunks.transpose(0, 3, 1, 2, 4).astype(np.float32) - np.float32(128)
    else:
        nibbles = data.reshape(tiles, groups, 4, 16, 4)
        halves = np.stack([nibbles & 15, nibbles >> 4], axis=2)  # [t, g, 2, 4, 16, 4]
        codes = halves.transpose(0, 4, 1, 2, 3, 5).astype(np.float32) - np.float32(8)
    codes = codes.reshape(tiles, 16, groups, 32)
    wide = codes * scales.transpose(0, 2, 1).astype(np.float32)[..., None]
    out: F32 = wide.reshape(matrix.n_padded, matrix.k_padded)
    return out


def unpack_matrix(matrix: PackedMatrix, which: int = 0) -> F32:
    """Dequantize matrix ``which`` of the stack: float32 [n, k]."""
    return np.ascontiguousarray(_tiles_to_f32(matrix, which)[: matrix.n, : matrix.k])


def unpack_rows(matrix: PackedMatrix, rows: I32) -> F32:
    """Dequantize some rows of a single matrix without touching the others: float32 [len(rows), k]."""
    tiles = matrix.n_padded // 16
    per_tile = matrix.data.reshape(tiles, -1)
    scales = None if matrix.scales is None else matrix.scales.reshape(tiles, -1)
    out = np.empty((len(rows), matrix.k), dtype=np.float32)
    for i, row in enumerate(rows.tolist()):
        t, r = divmod(row, 16)
        tile = PackedMatrix(
            format=matrix.format,
            n=16,
            k=matrix.k,
            data=per_tile[t],
            scales=None if scales is None else scales[t],
        )
        out[i] = _tiles_to_f32(tile, 0)[r, : matrix.k]
    return out


def table_rows(table: RowTable, rows: I32) -> F32:
    """Rows of a row-major table, float32 [len(rows), width]."""
    picked = table.data[rows]
    if table.format == "bf16":
        return bf16_to_f32(picked)
    assert table.scales is not None
    scales = table.scales[rows].view(np.float16).astype(np.float32)
    wide = picked.astype(np.float32).reshape(len(rows), -1, 32) * scales[..., None]
    out: F32 = wide.reshape(len(rows), -1)[:, : table.width]
    return out
