"""The layout that the native kernels read: tiles of 16 output rows, cells of 32 columns, or 64 in the row formats.

A row's columns of a cell are encoded as a strip [a, b]; a tile holds the strips of its 16 rows with the row axis
between a and b, so one 64-byte load brings b neighbouring values of 16 rows:

- ``bf16``: strip uint16 [32, 1]; codes are uint16 [tiles, groups, 32, 16, 1].
- ``int8``: strip uint8 [8, 4], code + 128, the unsigned left operand of vpdpbusd; [tiles, groups, 8, 16, 4].
- ``int4``: strip uint8 [4, 4]; byte [c, b] holds the code + 8 of column 4c + b in its low nibble and of column
  16 + 4c + b in its high nibble; [tiles, groups, 4, 16, 4].
- ``q8r``: as int8, strip uint8 [16, 4].
- ``q4r``: strip uint8 [8, 4]; byte [c, b] holds the code + 8 of column 8c + b in its low nibble and of column
  8c + 4 + b in its high nibble.
- ``q2r``: strip uint8 [4, 4]; byte [c, b] holds the code + 2 of columns 16c + b, 16c + 4 + b, 16c + 8 + b and
  16c + 12 + b, low bits first.

Scales are uint16 [tiles, groups, 16], of row formats float32 [tiles, 1, 16]. Rows pad to 16 and columns to whole cells
with code 0, and rows with scale 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from geminate.arrays import I32, U8
from geminate.formats.matrix import PackedMatrix, Planes
from geminate.formats.table import FORMATS, GROUP, Codes, WeightFormat, padded

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


def _nibbles(codes: np.ndarray) -> np.ndarray:
    halves = (codes + np.int8(8)).view(np.uint8).reshape(*codes.shape[:2], 2, 4, 4)
    return halves[:, :, 0] | (halves[:, :, 1] << np.uint8(4))


def _from_nibbles(strips: np.ndarray) -> np.ndarray:
    halves = np.stack([strips & np.uint8(15), strips >> np.uint8(4)], axis=2)
    return halves.reshape(*strips.shape[:2], GROUP).view(np.int8) - np.int8(8)


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
    "int4": Strip(dtype="|u1", shape=(4, 4), encode=_nibbles, decode=_from_nibbles),
    "q2r": _row_strip(2),
    "q4r": _row_strip(4),
    "q8r": _row_strip(8),
}


class TileLayout:
    """See `geminate.formats.matrix.Layout` and the module's text."""

    rows = TILE_ROWS

    def __init__(self, fmt: WeightFormat) -> None:
        self._strip = STRIPS[fmt]
        self.name = f"tiles-{TILE_ROWS}x{self._strip.columns}"
        row = FORMATS[fmt]
        self._scale_type = None if "scales" not in row.planes else "<f4" if row.row_scaled else "<u2"

    def _groups(self, k: int) -> int:
        return padded(k, self._strip.columns) // self._strip.columns

    def _scale_groups(self, k: int) -> int:
        return 1 if self._scale_type == "<f4" else self._groups(k)

    def shapes(self, n: int, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See `Layout`."""
        tiles, (a, b) = padded(n, TILE_ROWS) // TILE_ROWS, self._strip.shape
        codes = (tiles, self._groups(k), a, TILE_ROWS, b)
        found: dict[str, tuple[str, tuple[int, ...]]] = {"codes": (self._strip.dtype, codes)}
        if self._scale_type is not None:
            found["scales"] = (self._scale_type, (tiles, self._scale_groups(k), TILE_ROWS))
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
            planes["scales"] = _tiled(scales[..., None, None]).reshape(-1, scales.shape[1], TILE_ROWS)
        return planes

    def unpack(self, planes: Planes, n: int, k: int, rows: I32 | None = None) -> Codes:
        """See `Layout`."""
        strips = _strips(planes["codes"], self._groups(k), self._strip.shape, rows)[: n if rows is None else None]
        values = self._strip.decode(strips).reshape(len(strips), -1)[:, :k]
        scales = None
        if self._scale_type is not None:
            scales = _strips(planes["scales"], self._scale_groups(k), (1, 1), rows)[: n if rows is None else None]
            scales = np.ascontiguousarray(scales.reshape(len(strips), -1))
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
