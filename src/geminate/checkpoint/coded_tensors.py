"""Tensors stored as codes with a scale for every group of columns: an int8 or int4 kernel grid, whoever wrote them.

`geminate quantize` writes ``NAME.codes``, int8 [..., n, k] (int8) or uint8 [..., n, k / 2] (int4, k even; see
`geminate.formats.row_codes`), and ``NAME.scales`` float16 [..., n, ceil(k / 32)]. What others write is read in
`compressed_tensors` and `gptq_awq`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.checkpoint.entries import Entry, Grid
from geminate.checkpoint.parts import by_module
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError
from geminate.formats.blocks import GROUP
from geminate.formats.row_codes import unpack_codes
from geminate.formats.table import FORMATS, Codes, WeightFormat, padded

CODES, SCALES = ".codes", ".scales"
METHOD = "geminate"  # quantization_config's quant_method
CODE_TYPES: dict[WeightFormat, str] = {"int8": "I8", "int4": "U8"}  # in safetensors, of what `geminate quantize` writes
SMALLEST_NORMAL = 2.0**-14  # of float16; below it a scale is rounded to the nearest multiple of 2^-24
WAY_OUT = "take the bf16 checkpoint (--weights int8 or int4 quantizes it here) or a GGUF file"


class CodeSource(Protocol):
    """How a file holds the codes and scales of a tensor [..., n, k].

    Attributes:
        parts: the stored tensors, that of the codes first.
    """

    @property
    def parts(self) -> tuple[TensorEntry, ...]: ...

    def codes(self, start: int, stop: int) -> I8:
        """Rows start..stop of the leading axis: int8 [..., k]."""
        ...

    def scales(self, start: int, stop: int) -> F32:
        """Scales of the same rows: float32 [..., groups as they are stored]."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowMajorCodes:
    """Codes packed along the rows, low bits first.

    Attributes:
        unsigned: 8-bit codes are stored with 128 added, as narrower ones always are with 2^(bits - 1).
    """

    stored: TensorEntry
    stored_scales: TensorEntry
    bits: int
    k: int
    unsigned: bool = False

    @property
    def parts(self) -> tuple[TensorEntry, ...]:
        """See `CodeSource`."""
        return (self.stored, self.stored_scales)

    def codes(self, start: int, stop: int) -> I8:
        """See `CodeSource`."""
        raw = self.stored.map()[start:stop].view(np.uint8)
        return unpack_codes(raw ^ np.uint8(128) if self.unsigned else raw, self.bits, self.k)

    def scales(self, start: int, stop: int) -> F32:
        """See `CodeSource`."""
        found = self.stored_scales.rows(start, stop)
        return found.reshape(len(found), -1) if len(self.stored.shape) == 2 else found


@dataclass(frozen=True, kw_only=True)
class CodedEntry:
    """Codes and scales as one tensor; an `Entry`.

    Attributes:
        group: columns that share a scale in the file, a multiple of 32, or all columns.
    """

    whole_norm: ClassVar[bool] = False
    offset: ClassVar[int] = 0
    name: str
    shape: tuple[int, ...]
    grid: Grid
    source: CodeSource
    group: int = GROUP

    @property
    def dtype(self) -> str:
        """The grid's name in capitals."""
        return self.grid.upper()

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.source.parts)

    def map(self) -> np.ndarray:
        """Always raises: a quantized tensor has no plain values to map."""
        raise WeightsError(f"{self.name} is quantized; it must not be")

    def codes(self, start: int, stop: int) -> tuple[I8, U16]:
        """See `Entry`: codes and scales as they are stored, a scale for several groups of 32 columns repeated.

        Raises:
            WeightsError: scales that are not finite, or that float16 does not hold.
        """
        scales = self._halves(self.source.scales(start, stop))
        groups = padded(self.shape[-1], GROUP) // GROUP
        wide = np.repeat(scales, -(-min(self.group, groups * GROUP) // GROUP), axis=-1)[..., :groups]
        return self.source.codes(start, stop), np.ascontiguousarray(wide).view(np.uint16)

    def _halves(self, scales: F32) -> np.ndarray:
        stored = self.source.parts[1]
        if not np.isfinite(scales).all():
            raise WeightsError(f"{stored.path}: {self.name} has scales that are not finite; download it again")
        with np.errstate(over="ignore"):
            halves = scales.astype(np.float16)
        exact = (halves.astype(np.float32) == scales) | (np.abs(scales) < SMALLEST_NORMAL)
        if not exact.all():
            raise WeightsError(
                f"{stored.path}: {self.name} has scales ({stored.dtype}) that float16 does not hold exactly, so that "
                f"its weights would be rounded a second time; {WAY_OUT}"
            )
        return halves

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the leading axis as float32."""
        codes, bits = self.codes(start, stop)
        flat = Codes(values=codes.reshape(-1, codes.shape[-1]), scales=bits.reshape(-1, bits.shape[-1]))
        return FORMATS[self.grid].dequantize(flat).reshape(codes.shape)


def with_coded(entries: Mapping[str, TensorEntry]) -> dict[str, Entry]:
    """Plain tensors as they are, and every pair of codes and scales of `geminate quantize` as one `CodedEntry`.

    Raises:
        WeightsError: codes without scales, or shapes and types that do not go together.
    """
    modules, found = by_module(entries, (CODES[1:], SCALES[1:]), towers=True)
    for base, parts in modules.items():
        codes, scales = parts.get(CODES[1:]), parts.get(SCALES[1:])
        if codes is None:
            found |= {entry.name: entry for entry in parts.values()}
        elif scales is None:
            raise WeightsError(f"{codes.path}: {codes.name} has no {base}{SCALES} beside it; quantize again")
        else:
            found[base] = _coded(base, codes, scales)
    return found


def _coded(name: str, stored: TensorEntry, scales: TensorEntry) -> CodedEntry:
    grids: dict[str, Grid] = {"I8": "int8", "U8": "int4"}
    grid = grids.get(stored.dtype)
    if grid is None or scales.dtype != "F16" or len(stored.shape) < 2:
        raise WeightsError(f"{stored.path}: {name} has codes {stored.dtype} and scales {scales.dtype}; quantize again")
    bits = FORMATS[grid].bits
    k = stored.shape[-1] * (8 // bits)
    shape = (*stored.shape[:-1], k)
    if scales.shape != (*shape[:-1], padded(k, GROUP) // GROUP):
        raise WeightsError(
            f"{stored.path}: {name} has codes {list(stored.shape)} and scales {list(scales.shape)}; quantize again"
        )
    source = RowMajorCodes(stored=stored, stored_scales=scales, bits=bits, k=k)
    return CodedEntry(name=name, shape=shape, grid=grid, source=source)
