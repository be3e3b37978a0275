"""Packed weights: the byte layouts that the quantizer writes, the cache file stores and kernels read.

Three formats, all over a matrix W [n, k] used as y = x @ W.T:

- ``bf16``: tiles of 16 output rows; ``data`` is uint16 [n_tiles, k_padded, 16] (bfloat16 bits).
- ``int8``: groups of 32 along k, code q in -127..127, w = q * scale (the Q8_0 grid).
  ``data`` is uint8 [n_tiles, k_padded/32, 8, 16, 4], byte [t, g, c, r, b] = q(row 16t+r,
  column 32g+4c+b) + 128: the unsigned left operand of vpdpbusd.
- ``int4``: groups of 32 along k, code u in 0..15, w = (u - 8) * scale (the Q4_0 grid).
  ``data`` is uint8 [n_tiles, k_padded/32, 4, 16, 4]; byte [t, g, c, r, b] holds the code of column
  32g+4c+b in its low nibble and of column 32g+16+4c+b in its high nibble.

``scales`` is uint16 [n_tiles, k_padded/32, 16] (float16 bits), one per output row and group. Rows pad
to 16 and columns to 32 with the code of zero (128, or 8 in each nibble) and scale 0 for padded rows.
A stack of matrices (MoE experts) repeats the layout ``stack`` times along a leading axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geminate.arrays import U8, U16

WeightFormat = Literal["bf16", "int8", "int4"]
TILE_ROWS = 16
GROUP = 32


def padded(size: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``size``."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """A weight matrix [n, k] (or ``stack`` of them) in a kernel layout; see the module's text.

    Attributes:
        format: ``bf16``, ``int8`` or ``int4``.
        n: output rows of one matrix. k: input columns.
        data: uint8 (int8/int4) or uint16 (bf16), C-contiguous, 64-byte aligned, often memory-mapped.
        scales: uint16 float16 bits, or None for bf16.
        stack: number of matrices, 1 except for MoE experts.
    """

    format: WeightFormat
    n: int
    k: int
    data: U8 | U16
    scales: U16 | None
    stack: int = 1

    @property
    def n_padded(self) -> int:
        """Rows of the padded matrix (a multiple of 16)."""
        return padded(self.n, TILE_ROWS)

    @property
    def k_padded(self) -> int:
        """Columns of the padded matrix (a multiple of 32)."""
        return padded(self.k, GROUP)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales together."""
        return self.data.nbytes + (self.scales.nbytes if self.scales is not None else 0)


@dataclass(frozen=True, kw_only=True)
class RowTable:
    """A table [rows, width] read row by row (the per-layer-embedding table); usually mapped from disk.

    Attributes:
        format: ``bf16`` (data uint16 [rows, width]) or ``int8`` (data int8 [rows, width_padded] with
            signed codes, scales uint16 float16 bits [rows, width_padded/32]).
    """

    format: Literal["bf16", "int8"]
    rows: int
    width: int
    data: np.ndarray
    scales: U16 | None
