"""Tensors of checkpoints with static activations: packed codes, scales and activation scales as one entry.

``gemma`` (transformers' integrations/gemma_quant.py): ``NAME.weight`` uint8 [n, ceil(k * bits / 8)], low bits first,
codes stored as code + 2^(bits - 1), or int8 [n, k] for 8 bits; ``NAME.weight_scale`` float32 [n, 1]; scalars
``NAME.input_activation_scale`` and ``NAME.output_activation_scale``, 0 where the layer was not calibrated. Embeddings:
``NAME.embedding_quantized`` and ``NAME.embedding_scale`` [n, blocks].
``compressed-tensors``: see `compressed_tensors`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from geminate.arrays import F32, I8, U8
from geminate.checkpoint.entries import Grid
from geminate.checkpoint.parts import FLOATS, Parts, activations, taken
from geminate.checkpoint.quantization_fields import Kind
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError
from geminate.formats.row_codes import packed_width, unpack_codes

GRIDS: dict[int, Grid] = {2: "q2r", 4: "q4r", 8: "q8r"}


@dataclass(frozen=True, kw_only=True)
class RowScaledEntry:
    """A matrix or table of 2-, 4- or 8-bit codes with scales per row, or per block of a row; an `Entry`.

    Attributes:
        shape: [n, k]; k counts whole bytes until `of_width` has set it.
        input_scale, output_scale: of the activations; 0: they are not rounded.
        blocks: scales of a row.
    """

    whole_norm: ClassVar[bool] = False
    name: str
    shape: tuple[int, ...]
    bits: int
    stored: TensorEntry
    scales: TensorEntry
    input_scale: float
    output_scale: float

    @property
    def grid(self) -> Grid:
        """See `Entry`."""
        return GRIDS[self.bits]

    @property
    def dtype(self) -> str:
        """The grid's name in capitals."""
        return self.grid.upper()

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.stored.nbytes + self.scales.nbytes

    @property
    def offset(self) -> int:
        """See `Entry`."""
        return self.stored.offset

    @property
    def blocks(self) -> int:
        """Scales of a row."""
        return self.scales.shape[1] if len(self.scales.shape) == 2 else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's codes in the file."""
        return self.stored.nbytes // max(1, self.shape[0])

    def of_width(self, k: int) -> RowScaledEntry:
        """The same with k columns.

        Raises:
            WeightsError: a row of the file has another number of bytes, or its blocks do not divide it.
        """
        need = -(-k * self.bits // 8)
        need = -(-need // 4) * 4 if self.stored.dtype == "I32" else need
        if self.row_bytes != need:
            raise WeightsError(
                f"{self.stored.path}: {self.stored.name} has {self.row_bytes} bytes a row; {k} columns of {self.bits} "
                f"bits, as quantization_config says, take {need}"
            )
        if k % self.blocks:
            raise WeightsError(f"{self.stored.path}: {self.scales.name} has {self.blocks} scales for {k} columns")
        return replace(self, shape=(self.shape[0], k))

    @property
    def as_read(self) -> bool:
        """Whether rows are stored as tables are read: without bytes behind the last code, 8 bits as int8."""
        return self.stored.dtype != "I32" or (
            self.bits < 8 and self.row_bytes == packed_width(self.shape[1], self.bits)
        )

    def map(self) -> U8:
        """The packed rows as they are stored, memory-mapped: uint8 [n, row_bytes]; see `as_read`."""
        raw = self.stored.map()
        return raw.view(np.uint8).reshape(self.shape[0], -1)

    def packed(self, start: int, stop: int) -> U8:
        """Some rows as `geminate.formats.row_codes` packs them: uint8 [rows, packed_width]."""
        raw = self.map()[start:stop, : packed_width(self.shape[1], self.bits)]
        return raw ^ np.uint8(128) if self.bits == 8 and self.stored.dtype == "I32" else raw

    def codes(self, start: int, stop: int) -> tuple[I8, F32]:
        """Codes int8 [rows, k] and scales float32 [rows, blocks] of some rows.

        Raises:
            WeightsError: scales that are negative or not finite.
        """
        return unpack_codes(self.packed(start, stop), self.bits, self.shape[1]), self.row_scales(start, stop)

    def row_scales(self, start: int, stop: int) -> F32:
        """The scales alone; see `codes`."""
        found = self.scales.rows(start, stop).reshape(-1, self.blocks)
        if not (np.isfinite(found) & (found >= 0)).all():
            raise WeightsError(
                f"{self.scales.path}: {self.scales.name} holds negative scales or such that are not finite; download "
                "the checkpoint again"
            )
        return found

    def rows(self, start: int, stop: int) -> F32:
        """Some rows as float32."""
        codes, scales = self.codes(start, stop)
        width = codes.shape[1] // self.blocks
        wide: F32 = codes.astype(np.float32) * np.repeat(scales, width, axis=1)
        return wide


def gemma_entry(module: str, parts: Parts, bits: int, kind: Kind) -> RowScaledEntry:
    """A module as the method ``gemma`` stores it.

    Raises:
        WeightsError: parts that are missing, or do not go together or with the number of bits.
    """
    if kind == "Embedding":
        stored, scales = taken(module, parts, bits, ("embedding_quantized", "embedding_scale"))
        scaled = (0.0, 0.0)
    else:
        sides = ("input_activation_scale", "output_activation_scale")
        stored, scales = taken(module, parts, bits, ("weight", "weight_scale"), sides)
        if sum(side in parts for side in sides) == 1:
            missing = next(side for side in sides if side not in parts)
            raise WeightsError(f"{stored.path}: {module} has no {missing}, which belongs to its other scale")
        scaled = activations(parts, sides)
    return row_scaled(stored, scales, bits, "I8" if bits == 8 else "U8", scaled, kind)


def row_scaled(
    stored: TensorEntry, scales: TensorEntry, bits: int, dtype: str, scaled: tuple[float, float], kind: Kind
) -> RowScaledEntry:
    """Codes and scales as one entry.

    Args:
        dtype: what the codes must be stored as. scaled: scales of input and output.

    Raises:
        WeightsError: types or shapes that do not go together.
    """
    if stored.dtype != dtype or len(stored.shape) != 2:
        raise WeightsError(
            f"{stored.path}: {stored.name} is {stored.dtype} {list(stored.shape)}; {bits} bits, as quantization_config "
            f"says, are stored as {dtype} [rows, bytes]"
        )
    n = stored.shape[0]
    blocks = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.dtype not in FLOATS or len(scales.shape) not in (1, 2) or scales.shape[0] != n or blocks < 1:
        raise WeightsError(
            f"{scales.path}: {scales.name} is {scales.dtype} {list(scales.shape)}; {stored.name} has {n} rows"
        )
    if kind == "Linear" and blocks != 1:
        raise WeightsError(
            f"{scales.path}: {scales.name} has {blocks} scales a row; of matrices one scale a row is supported"
        )
    row_bytes = stored.nbytes // max(1, n)
    return RowScaledEntry(
        name=stored.name,
        shape=(n, row_bytes * 8 // bits),
        bits=bits,
        stored=stored,
        scales=scales,
        input_scale=scaled[0],
        output_scale=scaled[1],
    )
