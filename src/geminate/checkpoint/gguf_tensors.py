"""A GGUF file's tensors with the values that packing wants, and a family's names for them.

Q4_0 is our int4 grid and Q8_0 our int8 grid, and Q4_K, Q5_K, Q6_K, Q5_0, Q5_1 and IQ4_NL have formats of their own, so
their codes and scales pass through without rounding; other block types are dequantized by the gguf package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geminate.arrays import F32, I8, U16
from geminate.checkpoint.entries import Grid
from geminate.errors import WeightsError
from geminate.formats.rounding import bf16_to_f32, quantize_int8
from geminate.formats.table import BLOCK_FORMATS

PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8"}
GRIDS: dict[str, Grid] = {
    "Q4_0": "int4", "Q8_0": "int8", "Q4_K": "q4_k", "Q5_K": "q5_k", "Q6_K": "q6_k", "Q5_0": "q5_0", "Q5_1": "q5_1",
    "IQ4_NL": "iq4_nl",
}  # fmt: skip
OTHER_TOWERS = ("v.", "a.", "mm.")  # vision, audio and their projectors, as files with everything in one have them
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34}


@dataclass(frozen=True, kw_only=True)
class GgufNames:
    """How a family's tensors are called in GGUF.

    Attributes:
        tensors: stored name -> canonical name. layers: the same behind ``blk.N.`` and ``layers.N.``.
        other: tensors that are no weights.
        whole_norms: whether norm weights 1 + w are stored as that sum.
    """

    tensors: Mapping[str, str]
    layers: Mapping[str, str]
    other: tuple[str, ...] = ()
    whole_norms: bool = False

    def canonical(self, name: str) -> str:
        """The canonical name; unknown ones stay as they are, tensors of other media as parts of ``vision``."""
        if name.startswith(OTHER_TOWERS):
            return f"vision.{name}"
        layer = _LAYER.fullmatch(name)
        if layer is not None and layer[2] in self.layers:
            return f"layers.{int(layer[1])}.{self.layers[layer[2]]}"
        return self.tensors.get(name, name)


@dataclass(frozen=True, kw_only=True)
class GgufEntry:
    """A tensor of a GGUF file; an `Entry`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int
    whole_norm: bool = False

    @property
    def grid(self) -> Grid | None:
        """See `Entry`."""
        return GRIDS.get(self.dtype)

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        """Stored bytes of rows start..stop, uint8 [rows, ..., bytes of a row]."""
        stop = min(stop, self.shape[0])
        each = self.nbytes // self.shape[0]
        raw = np.memmap(
            self.path, mode="r", dtype=np.uint8, offset=self.offset + start * each, shape=((stop - start) * each,)
        )
        return raw.reshape(stop - start, *self.shape[1:-1], -1)

    def map(self) -> np.ndarray:
        """All stored numbers, memory-mapped; bfloat16 as uint16 bits, a block format as uint8 [rows, bytes].

        Raises:
            WeightsError: a tensor of another quantization.
        """
        if self.grid in BLOCK_FORMATS:
            return self._bytes(0, self.shape[0])
        if self.dtype not in PLAIN:
            raise WeightsError(f"{self.path}: {self.name} is {self.dtype}; it must not be quantized")
        return np.memmap(self.path, mode="r", offset=self.offset, dtype=PLAIN[self.dtype], shape=self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows start..stop of the leading axis as float32 (a copy)."""
        if self.dtype in PLAIN:
            part = self.map()[start:stop]
            return bf16_to_f32(part) if self.dtype == "BF16" else part.astype(np.float32)
        if self.dtype in BLOCK_BYTES:
            codes, scales = self._stored(start, stop)
            wide: F32 = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
            return wide.reshape(*codes.shape[:-2], -1)
        return _dequantized(self._bytes(start, stop), self)

    def codes(self, start: int, stop: int) -> tuple[I8, U16]:
        """See `Entry`.

        ggml's own quantizer never writes the Q8_0 code -128, which our grid has not; a group that holds one is rounded.

        Raises:
            WeightsError: scales that are not finite.
        """
        if self.grid in BLOCK_FORMATS:
            return self._block_codes(start, stop)
        codes, scales = self._stored(start, stop)
        if not np.isfinite(scales.astype(np.float32)).all():
            raise self._not_finite()
        foreign = (codes == -128).any(axis=-1)
        if foreign.any():
            codes, scales = codes.copy(), scales.copy()
            wide = codes[foreign].astype(np.float32) * scales[foreign].astype(np.float32)[..., None]
            codes[foreign], scales[foreign] = quantize_int8(wide)
        return codes.reshape(*codes.shape[:-2], -1), np.ascontiguousarray(scales).view(np.uint16)

    def _block_codes(self, start: int, stop: int) -> tuple[I8, U16]:
        """Codes int8 [..., k] and records uint16 [..., blocks * words]."""
        assert self.grid is not None
        blocks, raw = BLOCK_FORMATS[self.grid], self._bytes(start, stop)
        codes, records = blocks.unpack(np.ascontiguousarray(raw.reshape(-1, raw.shape[-1])))
        if not blocks.finite(records):
            raise self._not_finite()
        return codes.reshape(*raw.shape[:-1], -1), records.reshape(*raw.shape[:-1], -1)

    def _not_finite(self) -> WeightsError:
        return WeightsError(f"{self.path}: {self.name} has scales that are not finite; download it again")

    def _stored(self, start: int, stop: int) -> tuple[I8, np.ndarray]:
        """Codes int8 [..., groups, 32] and scales float16 [..., groups] as the file has them."""
        raw = self._bytes(start, stop)
        blocks = raw.reshape(*raw.shape[:-1], -1, BLOCK_BYTES[self.dtype])
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
        if self.dtype == "Q8_0":
            return np.ascontiguousarray(blocks[..., 2:]).view(np.int8), scales
        packed = blocks[..., 2:]  # byte j: column j in the low nibble, column 16 + j in the high one
        nibbles = np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1)
        return nibbles.astype(np.int8) - np.int8(8), scales


def _dequantized(raw: np.ndarray, entry: GgufEntry) -> F32:
    # Imported here: most files do not need it.
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        wide: F32 = dequantize(raw, GGMLQuantizationType[entry.dtype])
    except (NotImplementedError, KeyError):
        raise WeightsError(
            f"{entry.path}: {entry.name} is {entry.dtype}, which the gguf package cannot dequantize; "
            "take a file with another quantization"
        ) from None
    return np.ascontiguousarray(wide, dtype=np.float32)


def canonical_tensors(entries: Mapping[str, GgufEntry], names: GgufNames) -> dict[str, GgufEntry]:
    """A file's weights by canonical name.

    Raises:
        WeightsError: two tensors with one canonical name.
    """
    found: dict[str, GgufEntry] = {}
    for name, entry in entries.items():
        if name in names.other:
            continue
        short = names.canonical(name)
        if short in found:
            raise WeightsError(f"{entry.path}: {name} and {found[short].name} name the same tensor")
        found[short] = replace(entry, whole_norm=names.whole_norms)
    return found
