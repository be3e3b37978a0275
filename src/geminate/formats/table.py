"""The weight formats, a row each: what stored numbers mean, not how they lie in memory.

A weight matrix W [n, k] is used as y = x @ W.T. A quantized format stores a code per weight, w = code * scale, and a
float16 scale per output row and group of columns, or (q2r, q4r, q8r) a float32 scale per output row; the block formats
of GGUF files have records of scales, see `geminate.formats.blocks`. How a backend arranges codes and scales is its
`Layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.errors import WeightsError
from geminate.formats import blocks as stored
from geminate.formats.blocks import GROUP as GROUP
from geminate.formats.blocks import Blocks
from geminate.formats.rounding import bf16_to_f32, f32_to_bf16, quantize_int4, quantize_int8
from geminate.formats.row_codes import packed_width, quantize_rows, scaled_rows

WeightFormat = Literal[
    "bf16", "int8", "int4", "q2r", "q4r", "q8r", "q4_k", "q5_k", "q6_k", "q5_0", "q5_1", "iq4_nl"
]  # fmt: skip
Activations = Literal["float", "groups", "rows"]
MOST_COLUMNS = 1 << 15  # of a matrix in a row format: its integer sums stay within int32 (native/kernels/formats.h)


def padded(size: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is at least ``size``."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Rows of a matrix as a format stores them.

    Attributes:
        values: int8 [n, k] codes, or uint16 [n, k] bfloat16 bits; k may be padded with zeros to whole groups.
        scales: uint16 [n, groups] float16 bits; of a block format uint16 [n, blocks * words], see `Blocks`; of a row
            format float32 [n, 1], or [n, blocks] in a table, each for k / blocks columns; None without scales.
    """

    values: I8 | U16
    scales: U16 | F32 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Format:
    """A weight format.

    Attributes:
        bits: of a stored weight, scales aside. dtype: NumPy type of `Codes.values`.
        group: columns whose activations share a scale, and weights unless there are ``blocks``; 0 without group scales.
        row_scaled: whether each output row has one scale.
        blocks: of a format that is only taken from files; None of others.
        lowest, highest: codes; 0, 0 without codes.
        planes: arrays that a tensor consists of, in the order in which the packed file has them.
        activations: what products see: floats; int8 by groups, each with its own scale; or int8 by rows, with the
            matrix's `PackedMatrix.input_scale`.
        row_table: whether tables that are read row by row come in this format.
        includes: formats whose codes and scales are valid here as they are.
        quantize: float32 [n, k] to `Codes`, k padded to whole groups.

            Raises:
                WeightsError: weights that are not finite or too large for the scale; always, of a block format.
        dequantize: `Codes` to float32 [n, k].
    """

    name: WeightFormat
    bits: int
    dtype: str
    group: int = 0
    lowest: int = 0
    highest: int = 0
    planes: tuple[str, ...] = ("codes",)
    row_scaled: bool = False
    blocks: Blocks | None = None
    activations: Activations = "float"
    row_table: bool = False
    includes: frozenset[str] = frozenset()
    quantize: Callable[[F32], Codes]
    dequantize: Callable[[Codes], F32]

    def nbytes(self, n: int, k: int) -> int:
        """Bytes of a matrix, scales included, without what a layout pads."""
        if self.row_scaled:
            return n * packed_width(k, self.bits) + 4 * n
        return n * k * self.bits // 8 + 2 * n * self.scale_words(k)

    def scale_words(self, k: int) -> int:
        """uint16 words of the group scales of a row of k columns; 0 without any."""
        if self.blocks is not None:
            return padded(k, self.blocks.columns) // self.blocks.columns * self.blocks.words
        return padded(k, self.group) // self.group if self.group else 0


def grouped(rows: F32, group: int = GROUP) -> F32:
    """float32 [n, k] as [n, groups, group], zeros behind the last column."""
    full = np.zeros((len(rows), padded(rows.shape[1], group)), dtype=np.float32)
    full[:, : rows.shape[1]] = rows
    return full.reshape(len(rows), -1, group)


def _quantizer(rule: Callable[[F32], tuple[I8, np.ndarray]]) -> Callable[[F32], Codes]:
    def quantize(rows: F32) -> Codes:
        codes, scales = rule(grouped(rows))
        return Codes(values=codes.reshape(len(rows), -1), scales=scales.view(np.uint16))

    return quantize


def _scaled(codes: Codes) -> F32:
    assert codes.scales is not None
    n, k = codes.values.shape
    if codes.scales.dtype == np.float32:
        return scaled_rows(codes.values.view(np.int8), codes.scales.view(np.float32))
    wide = np.zeros((n, codes.scales.shape[1] * GROUP), dtype=np.float32)
    wide[:, :k] = codes.values
    scales = codes.scales.view(np.float16).astype(np.float32)
    out: F32 = (wide.reshape(n, -1, GROUP) * scales[..., None]).reshape(n, -1)[:, :k]
    return out


def _row_format(name: WeightFormat, bits: int) -> Format:
    lowest = -(1 << (bits - 1))

    def quantize(rows: F32) -> Codes:
        codes, scales = quantize_rows(rows, bits)
        return Codes(values=codes, scales=scales)

    return Format(
        name=name,
        bits=bits,
        dtype="|i1",
        row_scaled=True,
        lowest=lowest,
        highest=-lowest - 1,
        planes=("codes", "scales"),
        activations="rows",
        row_table=True,
        quantize=quantize,
        dequantize=_scaled,
    )


def _block_format(name: WeightFormat, bits: int, lowest: int, blocks: Blocks) -> Format:
    def refuse(rows: F32) -> Codes:
        raise WeightsError(f"weights cannot be rounded to {name} here; files in it are used as they are")

    def dequantize(codes: Codes) -> F32:
        assert codes.scales is not None
        return blocks.dequantize(codes.values.view(np.int8), codes.scales.view(np.uint16))

    return Format(
        name=name,
        bits=bits,
        dtype="|i1",
        group=GROUP,
        blocks=blocks,
        lowest=lowest,
        highest=lowest + (1 << bits) - 1,
        planes=("codes", "scales"),
        activations="groups",
        row_table=True,
        quantize=refuse,
        dequantize=dequantize,
    )


FORMATS: dict[WeightFormat, Format] = {
    made.name: made
    for made in (
        Format(
            name="bf16",
            bits=16,
            dtype="<u2",
            row_table=True,
            quantize=lambda rows: Codes(values=f32_to_bf16(rows)),
            dequantize=lambda codes: bf16_to_f32(codes.values.view(np.uint16)),
        ),
        Format(
            name="int8",
            bits=8,
            dtype="|i1",
            group=GROUP,
            lowest=-127,
            highest=127,
            planes=("codes", "scales"),
            activations="groups",
            row_table=True,
            includes=frozenset({"int4"}),
            quantize=_quantizer(quantize_int8),
            dequantize=_scaled,
        ),
        Format(
            name="int4",
            bits=4,
            dtype="|i1",
            group=GROUP,
            lowest=-8,
            highest=7,
            planes=("codes", "scales"),
            activations="groups",
            quantize=_quantizer(quantize_int4),
            dequantize=_scaled,
        ),
        _row_format("q2r", 2),
        _row_format("q4r", 4),
        _row_format("q8r", 8),
        _block_format("q4_k", 4, 0, stored.Q4_K),
        _block_format("q5_k", 5, 0, stored.Q5_K),
        _block_format("q6_k", 6, -32, stored.Q6_K),
        _block_format("q5_0", 5, -16, stored.Q5_0),
        _block_format("q5_1", 5, 0, stored.Q5_1),
        _block_format("iq4_nl", 4, 0, stored.IQ4_NL),
    )
}
ROW_FORMATS: dict[int, WeightFormat] = {row.bits: row.name for row in FORMATS.values() if row.row_scaled}
BLOCK_FORMATS: dict[WeightFormat, Blocks] = {row.name: row.blocks for row in FORMATS.values() if row.blocks is not None}
