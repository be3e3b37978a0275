"""Packed weights: codes of a format in the memory layout of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from geminate.arrays import F32, I32
from geminate.formats.row_codes import unpack_codes
from geminate.formats.table import FORMATS, Codes, WeightFormat

Planes = Mapping[str, np.ndarray]


class Layout(Protocol):
    """How a backend wants the planes of one format in memory.

    Attributes:
        name: stands in the packed file; another arrangement needs another name.
        rows: how many rows are packed together; blocks of rows that are packed apart begin at multiples of it.
    """

    name: str
    rows: int

    def shapes(self, n: int, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """NumPy type and shape of each plane of a matrix [n, k], padding included."""
        ...

    def pack(self, codes: Codes) -> dict[str, np.ndarray]:
        """Planes of these rows, consecutive in those of the whole matrix."""
        ...

    def unpack(self, planes: Planes, n: int, k: int, rows: I32 | None = None) -> Codes:
        """The inverse of `pack`, of some rows only if asked for: codes [n or len(rows), k]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedMatrix:
    """A weight matrix [n, k], or ``stack`` of them (experts), as a backend's kernels read it.

    Attributes:
        n: output rows of one matrix. k: input columns.
        planes: arrays by plane, each with a leading axis of ``stack``, or flat; often memory-mapped.
        layout: how they are arranged.
        input_scale: of the activations, in a row format: int8(x / input_scale) enters the products; 0 is a matrix that
            was not calibrated, whose activations are rounded to 16 bits with a scale of their row.
        output_scale: outputs are rounded to int8(y / output_scale) times it; 0: not rounded.
    """

    format: WeightFormat
    n: int
    k: int
    planes: Planes
    layout: Layout
    stack: int = 1
    input_scale: float = 0.0
    output_scale: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all planes."""
        return sum(plane.nbytes for plane in self.planes.values())

    def dequantized(self, which: int = 0) -> F32:
        """Matrix ``which`` of the stack, float32 [n, k]."""
        return self._wide(which, None)

    def dequantized_rows(self, rows: I32) -> F32:
        """Some rows of a single matrix, the others untouched: float32 [len(rows), k]."""
        return self._wide(0, rows)

    def _wide(self, which: int, rows: I32 | None) -> F32:
        planes = {name: plane.reshape(self.stack, -1)[which] for name, plane in self.planes.items()}
        return FORMATS[self.format].dequantize(self.layout.unpack(planes, self.n, self.k, rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTable:
    """A table [rows, width] read row by row (the per-layer-embedding table); usually mapped from disk.

    Attributes:
        planes: row-major `Codes`: codes [rows, width padded to whole groups], scales [rows, groups]. Of a row format:
            packed codes uint8 (`row_codes.pack_codes`), and scales float32 [rows, blocks], each for width / blocks
            columns. Of a block format: codes alone, uint8 [rows, bytes], blocks as GGUF files have them.
    """

    format: WeightFormat
    rows: int
    width: int
    planes: Planes

    def codes(self, rows: I32) -> Codes:
        """Some rows as the format stores them."""
        row, values, scales = FORMATS[self.format], self.planes["codes"][rows], self.planes.get("scales")
        if row.blocks is not None:
            unpacked, records = row.blocks.unpack(np.ascontiguousarray(values))
            return Codes(values=unpacked, scales=records)
        if row.row_scaled:
            values = unpack_codes(values, row.bits, self.width)
        return Codes(values=values, scales=None if scales is None else scales[rows])

    def dequantized_rows(self, rows: I32) -> F32:
        """Some rows, float32 [len(rows), width]."""
        return FORMATS[self.format].dequantize(self.codes(rows))[:, : self.width]

    def dequantized(self) -> F32:
        """All rows, float32 [rows, width]."""
        return self.dequantized_rows(np.arange(self.rows, dtype=np.int32))
