"""The layout that the native kernels read: tiles of 16 output rows, cells of 32 columns.

A row's 32 columns of a cell are encoded as a strip [a, b]; a tile holds the strips of its 16 rows with the row axis
between a and b, so one 64-byte load brings b neighbouring values of 16 rows:

- ``bf16``: strip uint16 [32, 1]; codes are uint16 [tiles, groups, 32, 16, 1].
- ``int8``: strip uint8 [8, 4], code + 128, the unsigned left operand of vpdpbusd; [tiles, groups, 8, 16, 4].
- ``int4``: strip uint8 [4, 4]; byte [c, b] holds the code + 8 of column 4c + b in its low nibble and of column
  16 + 4c + b in its high nibble; [tiles, groups, 4, 16, 4].

Scales are uint16 [tiles, groups, 16]. Rows pad to 16 and columns to 32 with code 0, and rows with scale 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geminate.arrays import I32
from geminate.formats.matrix import PackedMatrix, Planes
from geminate.formats.table import FORMATS, GROUP, Codes, WeightFormat, padded

TILE_ROWS = 16
CLUSTERS = 64  # rearranged at a time: a vocabulary's codes are never whole in memory twice


@dataclass(frozen=True, kw_only=True)
class Strip:
    """How 32 columns of a row are encoded: codes [n, groups, 32] to [n, groups, *shape] and back."""

    dtype: str
    shape: tuple[int, int]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


def _nibbles(codes: np.ndarray) -> np.ndarray:
    halves = (codes + np.int8(8)).view(np.uint8).reshape(*codes.shape[:2], 2, 4, 4)
    return halves[:, :, 0] | (halves[:, :, 1] << np.uint8(4))


def _from_nibbles(strips: np.ndarray) -> np.ndarray:
    halves = np.stack([strips & np.uint8(15), strips >> np.uint8(4)], axis=2)
    return halves.reshape(*strips.shape[:2], GROUP).view(np.int8) - np.int8(8)


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
}


class TileLayout:
    """See `geminate.formats.matrix.Layout` and the module's text."""

    name = "tiles-16x32"
    rows = TILE_ROWS

    def __init__(self, fmt: WeightFormat) -> None:
        self._strip = STRIPS[fmt]
        self._scaled = "scales" in FORMATS[fmt].planes
        self._code_type = FORMATS[fmt].dtype

    def shapes(self, n: int, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See `Layout`."""
        tiles, groups = padded(n, TILE_ROWS) // TILE_ROWS, padded(k, GROUP) // GROUP
        a, b = self._strip.shape
        found: dict[str, tuple[str, tuple[int, ...]]] = {"codes": (self._strip.dtype, (tiles, groups, a, TILE_ROWS, b))}
        if self._scaled:
            found["scales"] = ("<u2", (tiles, groups, TILE_ROWS))
        return found

    def pack(self, codes: Codes) -> dict[str, np.ndarray]:
        """See `Layout`."""
        n, k = codes.values.shape
        full = np.zeros((padded(n, TILE_ROWS), padded(k, GROUP)), dtype=codes.values.dtype)
        full[:n, :k] = codes.values
        planes = {"codes": _tiled(self._strip.encode(full.reshape(len(full), -1, GROUP)))}
        if codes.scales is not None:
            scales = np.zeros((len(full), codes.scales.shape[1]), dtype=np.uint16)
            scales[:n] = codes.scales
            planes["scales"] = _tiled(scales[..., None, None]).reshape(-1, scales.shape[1], TILE_ROWS)
        return planes

    def unpack(self, planes: Planes, n: int, k: int, rows: I32 | None = None) -> Codes:
        """See `Layout`."""
        strips = self._strips(planes["codes"], k, self._strip.shape, rows)[: n if rows is None else None]
        values = self._strip.decode(strips).reshape(len(strips), -1)[:, :k]
        scales = None
        if self._scaled:
            scales = self._strips(planes["scales"], k, (1, 1), rows)[: n if rows is None else None]
            scales = np.ascontiguousarray(scales.reshape(len(strips), -1))
        return Codes(values=values, scales=scales)

    def _strips(self, plane: np.ndarray, k: int, shape: tuple[int, int], rows: I32 | None) -> np.ndarray:
        """Strips [rows, groups, *shape] of a plane; None: of all its rows, those that pad included."""
        tiles = plane.reshape(-1, padded(k, GROUP) // GROUP, shape[0], TILE_ROWS, shape[1])
        if rows is None:
            by_row = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2, 4))
            return by_row.reshape(-1, *by_row.shape[2:])
        at, within = np.divmod(rows, TILE_ROWS)
        return np.ascontiguousarray(tiles[at, :, :, within, :])

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
        return PackedMatrix(format=w.format, n=len(rows), k=w.k, planes=planes, layout=self)

    def clustered(self, table: PackedMatrix, order: I32, clusters: int) -> PackedMatrix:
        """The table's rows in cluster order, one matrix of the stack per cluster; codes are moved, not requantized."""
        size = len(order) // clusters
        rows = padded(size, TILE_ROWS)
        parts: list[dict[str, np.ndarray]] = []
        for some in np.split(order.reshape(clusters, size), range(CLUSTERS, clusters, CLUSTERS)):
            codes = self.unpack(table.planes, table.n, table.k, some.reshape(-1))
            values = _spaced(codes.values, size, rows)
            scales = None if codes.scales is None else _spaced(codes.scales, size, rows)
            parts.append(self.pack(Codes(values=values, scales=scales)))
        planes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return PackedMatrix(format=table.format, n=size, k=table.k, planes=planes, layout=self, stack=clusters)


def _spaced(array: np.ndarray, size: int, rows: int) -> np.ndarray:
    """[clusters * size, m] as [clusters * rows, m], zeros behind each cluster."""
    out = np.zeros((len(array) // size, rows, array.shape[1]), dtype=array.dtype)
    out[:, :size] = array.reshape(-1, size, array.shape[1])
    return out.reshape(-1, array.shape[1])


def _tiled(strips: np.ndarray) -> np.ndarray:
    """Strips [16 t, groups, a, b] as tiles [t, groups, a, 16, b]."""
    n, groups, a, b = strips.shape
    return np.ascontiguousarray(strips.reshape(n // TILE_ROWS, TILE_ROWS, groups, a, b).transpose(0, 2, 3, 1, 4))


LAYOUTS: dict[WeightFormat, TileLayout] = {name: TileLayout(name) for name in STRIPS}
