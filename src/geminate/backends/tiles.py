"""The layout that the native kernels read: tiles of 16 output rows, cells of 32 columns, or 64 in the row formats.

A row's columns of a cell are encoded as a strip [a, b]; a tile holds the strips of its 16 rows with the row axis
between a and b, so one 64-byte load brings b neighbouring values of 16 rows:

- ``bf16``: strip uint16 [32, 1]; codes are uint16 [tiles, groups, 32, 16, 1].
- ``int8``: strip uint8 [8, 4], code + 128, the unsigned left operand of vpdpbusd; [tiles, groups, 8, 16, 4].
- ``int4``: strip uint8 [4, 4]; byte [c, b] holds the code + 8 of column 4c + b in its low nibble and of column
  16 + 4c + b in its high nibble; [tiles, groups, 4, 16, 4].
- ``q4_k``, ``iq4_nl``: as int4, the code with nothing added.
- ``q5_k``, ``q5_1``, ``q5_0`` (code + 16): strip uint8 [5, 4]; bit w of byte [0, b] is the fifth bit of column 4w + b;
  [1:] as int4 the four low bits.
- ``q6_k`` (code + 32): strip uint8 [6, 4]; bits 2w and 2w + 1 of byte [h, b], h of 0 and 1, are the high bits of column
  16h + 4w + b; [2:] as int4 the four low bits.
- ``q8r``: as int8, strip uint8 [16, 4].
- ``q4r``: strip uint8 [8, 4]; byte [c, b] holds the code + 8 of column 8c + b in its low nibble and of column
  8c + 4 + b in its high nibble.
- ``q2r``: strip uint8 [4, 4]; byte [c, b] holds the code + 2 of columns 16c + b, 16c + 4 + b, 16c + 8 + b and
  16c + 12 + b, low bits first.

Scales are uint16 [tiles, groups, 16], of row formats float32 [tiles, 1, 16]. Of block formats they are records uint16
[tiles, blocks, 16 * words]: each float16 number of 16 rows, then each byte of 16 rows. Rows pad to 16 and columns to
whole cells with code 0, and rows with scale 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from geminate.arrays import I32, U8
from geminate.formats.blocks import GROUP
from geminate.formats.matrix import PackedMatrix, Planes
from geminate.formats.table import FORMATS, Codes, WeightFormat, padded

TILE_ROWS = 16
ROW_COLUMNS = 64  # of a cell of the row formats


@dataclass(frozen=True, kw_only=True)
class Strip:
    """How a cell's columns of a row are encoded: codes [n, groups, columns] to [n, groups, *shape] and back."""

    dtype: str
    shape: tuple[int, int]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    columns: int = GROUP


def _group_strip(bits: int, offset: int) -> Strip:
    """Codes of 4, 5 or 6 bits with their offset: nibbles, behind the bits above them."""
    added, above = np.uint8(offset), (1 << bits - 4) - 1
    per_byte = 8 // (bits - 4) if above else 0  # words of four columns whose high bits share a byte
    shifts = (np.arange(per_byte) * (bits - 4)).astype(np.uint8)[:, None]

    def encode(codes: np.ndarray) -> np.ndarray:
        words = (codes.view(np.uint8) + added).reshape(*codes.shape[:2], 8, 4)
        low = words & np.uint8(15)
        strips: U8 = low[:, :, :4] | (low[:, :, 4:] << np.uint8(4))
        if above:
            high = (words >> np.uint8(4)).reshape(*codes.shape[:2], -1, per_byte, 4)
            strips = np.concatenate((np.bitwise_or.reduce(high << shifts, axis=3), strips), axis=2)
        return strips

    def decode(strips: np.ndarray) -> np.ndarray:
        nibbles = strips[:, :, -4:]
        words: U8 = np.concatenate((nibbles & np.uint8(15), nibbles >> np.uint8(4)), axis=2)
        if above:
            high = (strips[:, :, :-4, None] >> shifts) & np.uint8(above)
            words = words | (high.reshape(words.shape) << np.uint8(4))
        return (words.reshape(*strips.shape[:2], GROUP) - added).view(np.int8)

    return Strip(dtype="|u1", shape=(bits, 4), encode=encode, decode=decode)


def _row_strip(bits: int) -> Strip:
    """Bytes of 8 / bits codes with their offset, four columns apart, low bits first."""
    each, offset = 8 // bits, np.uint8(1 << (bits - 1))
    shifts = (np.arange(each) * bits).astype(np.uint8)[:, None]

    def encode(codes: np.ndarray) -> np.ndarray:
        fields = (codes.view(np.uint8) + offset).reshape(*codes.shape[:2], -1, each, 4)
        strips: U8 = np.bitwise_or.reduce(fields << shifts, axis=3)
        return strips

    def decode(strips: np.ndarray) -> np.ndarray:
        fields = (strips[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)
        return (fields - offset).view(np.int8).reshape(*strips.shape[:2], ROW_COLUMNS)

    return Strip(dtype="|u1", shape=(ROW_COLUMNS // 4 // each, 4), encode=encode, decode=decode, columns=ROW_COLUMNS)


STRIPS: dict[WeightFormat, Strip] = {
    "bf16": Strip(
        dtype="<u2",
        shape=(32, 1),
        encode=lambda codes: codes[..., None],
        decode=lambda strips: strips[..., 0],
    ),
    "int8": Strip(
        dtype="|u1",
        shape=(8, 4),
        encode=lambda codes: (codes.view(np.uint8) ^ np.uint8(0x80)).reshape(*codes.shape[:2], 8, 4),
        decode=lambda strips: (strips ^ np.uint8(0x80)).view(np.int8).reshape(*strips.shape[:2], GROUP),
    ),
    "int4": _group_strip(4, 8),
    "q2r": _row_strip(2),
    "q4r": _row_strip(4),
    "q8r": _row_strip(8),
    "q4_k": _group_strip(4, 0),
    "q5_k": _group_strip(5, 0),
    "q6_k": _group_strip(6, 32),
    "q5_0": _group_strip(5, 16),
    "q5_1": _group_strip(5, 0),
    "iq4_nl": _group_strip(4, 0),
}


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What a row's scales of a block consist of, in `TileLayout.pack`'s terms: numbers, then bytes."""

    numbers: int = 1
    small: int = 0

    @property
    def words(self) -> int:
        """Numbers that a record takes."""
        return self.numbers + self.small // 2

    def tiled(self, scales: np.ndarray) -> np.ndarray:
        """[16 t, blocks * words] as [t, blocks, 16 * words]."""
        records = scales.reshape(len(scales) // TILE_ROWS, TILE_ROWS, -1, self.words)
        parts = [records[..., : self.numbers].transpose(0, 2, 3, 1)]
        if self.small:
            small = np.ascontiguousarray(records[..., self.numbers :]).view(np.uint8)
            parts.append(np.ascontiguousarray(small.transpose(0, 2, 3, 1)).view(scales.dtype))
        flat = [part.reshape(*part.shape[:2], -1) for part in parts]
        return np.ascontiguousarray(np.concatenate(flat, axis=2))

    def by_row(self, plane: np.ndarray, blocks: int, rows: I32 | None) -> np.ndarray:
        """The inverse, of all rows or some: [rows, blocks * words]."""
        tiles = plane.reshape(-1, blocks, TILE_ROWS * self.words)
        within = None
        if rows is not None:
            at, within = np.divmod(rows, TILE_ROWS)
            tiles = tiles[at]
        cut = TILE_ROWS * self.numbers
        parts = [_of_rows(tiles[..., :cut].reshape(*tiles.shape[:2], -1, TILE_ROWS), within)]
        if self.small:
            small = np.ascontiguousarray(tiles[..., cut:]).view(np.uint8)
            by_row = _of_rows(small.reshape(*tiles.shape[:2], -1, TILE_ROWS), within)
            parts.append(np.ascontiguousarray(by_row).view(plane.dtype))
        records = np.concatenate(parts, axis=2)
        return records.reshape(len(records), -1)


def _of_rows(tiles: np.ndarray, within: np.ndarray | None) -> np.ndarray:
    """[t, blocks, m, 16] as [16 t, blocks, m], or row ``within[i]`` of tile i alone: [t, blocks, m]."""
    if within is not None:
        picked: np.ndarray = tiles[np.arange(len(tiles)), :, :, within]
        return picked
    by_row = tiles.transpose(0, 3, 1, 2)
    return by_row.reshape(-1, *by_row.shape[2:])


class TileLayout:
    """See `geminate.formats.matrix.Layout` and the module's text."""

    rows = TILE_ROWS

    def __init__(self, fmt: WeightFormat) -> None:
        self._strip = STRIPS[fmt]
        self.name = f"tiles-{TILE_ROWS}x{self._strip.columns}"
        row = FORMATS[fmt]
        self._scale_type = None if "scales" not in row.planes else "<f4" if row.row_scaled else "<u2"
        blocks = row.blocks
        self._record = _Record() if blocks is None else _Record(numbers=blocks.halves, small=blocks.small)
        self._block = self._strip.columns if blocks is None else blocks.columns

    def _groups(self, k: int) -> int:
        return padded(k, self._strip.columns) // self._strip.columns

    def _records(self, k: int) -> int:
        return 1 if self._scale_type == "<f4" else padded(k, self._block) // self._block

    def shapes(self, n: int, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See `Layout`."""
        tiles, (a, b) = padded(n, TILE_ROWS) // TILE_ROWS, self._strip.shape
        codes = (tiles, self._groups(k), a, TILE_ROWS, b)
        found: dict[str, tuple[str, tuple[int, ...]]] = {"codes": (self._strip.dtype, codes)}
        if self._scale_type is not None:
            found["scales"] = (self._scale_type, (tiles, self._records(k), TILE_ROWS * self._record.words))
        return found

    def pack(self, codes: Codes) -> dict[str, np.ndarray]:
        """See `Layout`."""
        n, k = codes.values.shape
        columns = self._strip.columns
        full = np.zeros((padded(n, TILE_ROWS), padded(k, columns)), dtype=codes.values.dtype)
        full[:n, :k] = codes.values
        planes = {"codes": _tiled(self._strip.encode(full.reshape(len(full), -1, columns)))}
        if codes.scales is not None:
            scales = np.zeros((len(full), codes.scales.shape[1]), dtype=codes.scales.dtype)
            scales[:n] = codes.scales
            planes["scales"] = self._record.tiled(scales)
        return planes

    def unpack(self, planes: Planes, n: int, k: int, rows: I32 | None = None) -> Codes:
        """See `Layout`."""
        strips = _strips(planes["codes"], self._groups(k), self._strip.shape, rows)[: n if rows is None else None]
        values = self._strip.decode(strips).reshape(len(strips), -1)[:, :k]
        scales = None
        if self._scale_type is not None:
            scales = self._record.by_row(planes["scales"], self._records(k), rows)[: n if rows is None else None]
        return Codes(values=values, scales=scales)

    def part(self, w: PackedMatrix, rows: range) -> PackedMatrix:
        """Consecutive rows of a single matrix: a view where they begin a tile, else a copy."""
        if rows == range(w.n):
            return w
        if rows.start % TILE_ROWS:
            planes: Planes = self.pack(self.unpack(w.planes, w.n, w.k, np.array(rows, dtype=np.int32)))
        else:
            tiles = slice(rows.start // TILE_ROWS, padded(rows.stop, TILE_ROWS) // TILE_ROWS)
            shapes = self.shapes(w.n, w.k)
            planes = {name: plane.reshape(shapes[name][1])[tiles] for name, plane in w.planes.items()}
        return replace(w, n=len(rows), planes=planes)


def _strips(plane: np.ndarray, groups: int, shape: tuple[int, int], rows: I32 | None) -> np.ndarray:
    """Strips [rows, groups, *shape] of a plane; None: of all its rows, those that pad included."""
    tiles = plane.reshape(-1, groups, shape[0], TILE_ROWS, shape[1])
    if rows is None:
        by_row = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2, 4))
        return by_row.reshape(-1, *by_row.shape[2:])
    at, within = np.divmod(rows, TILE_ROWS)
    return np.ascontiguousarray(tiles[at, :, :, within, :])


def _tiled(strips: np.ndarray) -> np.ndarray:
    """Strips [16 t, groups, a, b] as tiles [t, groups, a, 16, b]."""
    n, groups, a, b = strips.shape
    return np.ascontiguousarray(strips.reshape(n // TILE_ROWS, TILE_ROWS, groups, a, b).transpose(0, 2, 3, 1, 4))


LAYOUTS: dict[WeightFormat, TileLayout] = {name: TileLayout(name) for name in STRIPS}
