"""Tensors that `geminate quantize` wrote: codes and scales of a kernel grid, side by side in safetensors.

``NAME.codes`` is int8 [..., n, k] (int8), or uint8 [..., n, k / 2] (int4, k even: column 2j in the low nibble of byte
j, column 2j + 1 in the high one, codes u in 0..15 for u - 8); ``NAME.scales`` is float16 [..., n, ceil(k / 32)].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from geminate.arrays import F32, I8, U8, U16
from geminate.checkpoint.entries import Entry, Grid
from geminate.checkpoint.safetensors_reader import TensorEntry
from geminate.errors import WeightsError
from geminate.formats.table import FORMATS, Codes, WeightFormat, padded

CODES, SCALES = ".codes", ".scales"
METHOD = "geminate"  # quantization_config's quant_method


@dataclass(frozen=True, kw_only=True)
class CodedEntry:
    """Codes and scales as one tensor; an `Entry`."""

    whole_norm: ClassVar[bool] = False
    offset: ClassVar[int] = 0
    name: str
    shape: tuple[int, ...]
    grid: Grid
    stored: TensorEntry
    scales: TensorEntry

    @property
    def dtype(self) -> str:
        """The grid's name in capitals."""
        return self.grid.upper()

    @property
    def nbytes(self) -> int:
        """Bytes of both parts."""
        return self.stored.nbytes + self.scales.nbytes

    def map(self) -> np.ndarray:
        """Always raises: a quantized tensor has no plain values to map."""
        raise WeightsError(f"{self.name} is quantized; it must not be")

    def codes(self, start: int, stop: int) -> tuple[I8, U16]:
        """See `Entry`.

        Raises:
            WeightsError: scales that are not finite, or a code outside the grid (int8's -128).
        """
        scales = self.scales.map()[start:stop]
        if not np.isfinite(scales.astype(np.float32)).all():
            raise WeightsError(f"{self.stored.path}: {self.name} has scales that are not finite; quantize again")
        raw = self.stored.map()[start:stop]
        codes = STORED[self.grid].decode(raw)
        lowest = FORMATS[self.grid].lowest
        if (codes < lowest).any():
            raise WeightsError(f"{self.stored.path}: {self.name} holds the code {codes.min()}; quantize again")
        return codes, np.ascontiguousarray(scales).view(np.uint16)

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the leading axis as float32."""
        codes, bits = self.codes(start, stop)
        flat = Codes(values=codes.reshape(-1, codes.shape[-1]), scales=bits.reshape(-1, bits.shape[-1]))
        return FORMATS[self.grid].dequantize(flat).reshape(codes.shape)


def pack_nibbles(codes: I8) -> U8:
    """int8 codes [..., k] in -8..7 as uint8 [..., k / 2]; k is even."""
    unsigned = (codes + np.int8(8)).view(np.uint8)
    packed: U8 = unsigned[..., 0::2] | (unsigned[..., 1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: U8) -> I8:
    """The inverse of `pack_nibbles`."""
    both = np.stack((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1)
    wide: I8 = both.reshape(*packed.shape[:-1], -1).astype(np.int8) - np.int8(8)
    return wide


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a grid's codes stand in the file: its safetensors type, codes per number, and the way there and back."""

    dtype: str
    per_number: int
    encode: Callable[[I8], np.ndarray]
    decode: Callable[[np.ndarray], I8]


STORED: dict[WeightFormat, Stored] = {
    "int8": Stored(dtype="I8", per_number=1, encode=lambda codes: codes, decode=lambda raw: raw.astype(np.int8)),
    "int4": Stored(dtype="U8", per_number=2, encode=pack_nibbles, decode=unpack_nibbles),
}


def with_coded(entries: Mapping[str, TensorEntry]) -> dict[str, Entry]:
    """Plain tensors as they are, and every pair of codes and scales as one `CodedEntry`.

    Raises:
        WeightsError: codes without scales, scales without codes, or shapes and types that do not go together.
    """
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        if name.endswith(SCALES) and name.removesuffix(SCALES) + CODES in entries:
            continue
        if not name.endswith(CODES):
            found[name] = entry
            continue
        base = name.removesuffix(CODES)
        scales = entries.get(base + SCALES)
        if scales is None:
            raise WeightsError(f"{entry.path}: {name} has no {base}{SCALES} beside it; quantize again")
        found[base] = _coded(base, entry, scales)
    return found


def _coded(name: str, stored: TensorEntry, scales: TensorEntry) -> CodedEntry:
    grids: dict[str, Grid] = {"I8": "int8", "U8": "int4"}
    grid = grids.get(stored.dtype)
    if grid is None or scales.dtype != "F16" or len(stored.shape) < 2:
        raise WeightsError(f"{stored.path}: {name} has codes {stored.dtype} and scales {scales.dtype}; quantize again")
    k = stored.shape[-1] * STORED[grid].per_number
    shape = (*stored.shape[:-1], k)
    if scales.shape != (*shape[:-1], padded(k, FORMATS[grid].group) // FORMATS[grid].group):
        raise WeightsError(
            f"{stored.path}: {name} has codes {list(stored.shape)} and scales {list(scales.shape)}; quantize again"
        )
    return CodedEntry(name=name, shape=shape, grid=grid, stored=stored, scales=scales)
