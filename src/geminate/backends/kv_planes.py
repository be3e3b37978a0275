"""How the keys and values of one layer lie in memory, one class a format.

Every array is [kv_heads, blocks, ...], so a block of `BLOCK` positions of a head is one piece of memory in each. The
order inside a block is the native kernels' (`KvSlot` in native/contract.h): keys of `LANES` positions side by side, so
that a score is computed for as many keys at once.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from geminate.arrays import F16, F32, I8, U8
from geminate.kv.store import BLOCK, KVDtype, SlotSpec

LANES = 16
ALIGN = 64  # bytes of a cache line


class KVPlanes(Protocol):
    """Keys and values of one layer; row r of a ring stands in block r // BLOCK.

    Attributes:
        arrays: the parts, keys and values first, then scales.
    """

    arrays: list[np.ndarray[Any, Any]]

    def write(self, row: int, keys: F32, values: F32) -> None:
        """Put a position's keys and values, float32 [kv_heads, head_dim], into a row."""
        ...

    def read(self, rows: np.ndarray[Any, Any]) -> tuple[F32, F32]:
        """What stands in the rows, each float32 [kv_heads, n, head_dim]."""
        ...


class HalfPlanes:
    """float16: keys [kv_heads, blocks, 4, head_dim, 16], values [kv_heads, blocks, 64, head_dim]."""

    def __init__(self, spec: SlotSpec, blocks: int) -> None:
        keys = (spec.kv_heads, blocks, BLOCK // LANES, spec.head_dim, LANES)
        values = (spec.kv_heads, blocks, BLOCK, spec.head_dim)
        self.arrays: list[np.ndarray[Any, Any]] = [zeros(keys, np.float16), zeros(values, np.float16)]

    def write(self, row: int, keys: F32, values: F32) -> None:
        """See `KVPlanes`; values stay finite, as in the kernels."""
        block, at = divmod(row, BLOCK)
        limit = np.float32(np.finfo(np.float16).max)
        self.arrays[0][:, block, at // LANES, :, at % LANES] = np.clip(keys, -limit, limit)
        self.arrays[1][:, block, at] = np.clip(values, -limit, limit)

    def read(self, rows: np.ndarray[Any, Any]) -> tuple[F32, F32]:
        """See `KVPlanes`."""
        block, at = np.divmod(rows, BLOCK)
        keys: F16 = self.arrays[0][:, block, at // LANES, :, at % LANES]  # indices stand first: [n, kv_heads, dim]
        values: F16 = self.arrays[1][:, block, at]
        return keys.swapaxes(0, 1).astype(np.float32), values.astype(np.float32)


class Int8Planes:
    """Turned keys and values in int8, one float32 scale for each position and head.

    Keys are uint8 with 128 added, [kv_heads, blocks, 4, width / 4, 16, 4], values int8
    [kv_heads, blocks, 16, width, 4], both zero-padded from head_dim to their width; scales of keys and of values
    [kv_heads, blocks, 64].
    """

    def __init__(self, spec: SlotSpec, blocks: int) -> None:
        self.head_dim = spec.head_dim
        key_quads, value_width = -(-spec.head_dim // 4), -(-spec.head_dim // LANES) * LANES
        self.arrays: list[np.ndarray[Any, Any]] = [
            zeros((spec.kv_heads, blocks, BLOCK // LANES, key_quads, LANES, 4), np.uint8),
            zeros((spec.kv_heads, blocks, BLOCK // 4, value_width, 4), np.int8),
            zeros((spec.kv_heads, blocks, BLOCK), np.float32),
            zeros((spec.kv_heads, blocks, BLOCK), np.float32),
        ]

    def write(self, row: int, keys: F32, values: F32) -> None:
        """See `KVPlanes`: turned, quantized."""
        block, at = divmod(row, BLOCK)
        key_codes, value_codes = (np.zeros((len(keys), n), np.int16) for n in self._widths)
        key_codes[:, : self.head_dim], self.arrays[2][:, block, at] = quantized_head(hadamard(keys))
        value_codes[:, : self.head_dim], self.arrays[3][:, block, at] = quantized_head(hadamard(values))
        self.arrays[0][:, block, at // LANES, :, at % LANES] = (key_codes + 128).reshape(len(keys), -1, 4)
        self.arrays[1][:, block, at // 4, :, at % 4] = value_codes

    @property
    def _widths(self) -> tuple[int, int]:
        return 4 * self.arrays[0].shape[3], self.arrays[1].shape[3]

    def codes(self, rows: np.ndarray[Any, Any]) -> tuple[F32, F32, F32, F32]:
        """Codes of turned keys and values [kv_heads, n, head_dim] and their scales [kv_heads, n], as float32."""
        block, at = np.divmod(rows, BLOCK)
        keys = self.arrays[0][:, block, at // LANES, :, at % LANES]  # [n, kv_heads, quads, 4]
        keys = keys.reshape(*keys.shape[:2], -1).swapaxes(0, 1)[..., : self.head_dim].astype(np.float32) - 128
        values = self.arrays[1][:, block, at // 4, :, at % 4].swapaxes(0, 1)[..., : self.head_dim].astype(np.float32)
        return keys, values, self.arrays[2][:, block, at], self.arrays[3][:, block, at]

    def read(self, rows: np.ndarray[Any, Any]) -> tuple[F32, F32]:
        """See `KVPlanes`: dequantized and turned back."""
        keys, values, key_scales, value_scales = self.codes(rows)
        part = np.float32(1 / hadamard_block(self.head_dim))
        return hadamard(keys * key_scales[..., None]) * part, hadamard(values * value_scales[..., None]) * part


def planes(dtype: KVDtype, spec: SlotSpec, blocks: int) -> KVPlanes:
    """Arrays for ``blocks`` blocks of a layer, all zero."""
    return Int8Planes(spec, blocks) if dtype == "int8" else HalfPlanes(spec, blocks)


def position_bytes(dtype: KVDtype, spec: SlotSpec) -> int:
    """Bytes of one position of a layer."""
    if dtype == "int8":
        return spec.kv_heads * (-(-spec.head_dim // 4) * 4 + -(-spec.head_dim // LANES) * LANES + 2 * 4)
    return spec.kv_heads * 2 * 2 * spec.head_dim


def zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray[Any, Any]:
    """A zeroed array at the begin of a cache line; untouched pages cost nothing."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw: U8 = np.zeros(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def hadamard_block(n: int) -> int:
    """The largest power of two that divides n: a head is turned in blocks of it."""
    return n & -n


def hadamard(x: F32) -> F32:
    """x times the unnormalized Hadamard matrix within each block of the last axis; twice is x times the block."""
    n = x.shape[-1]
    out, half = x.astype(np.float32), 1
    while half < hadamard_block(n):
        pairs = out.reshape(*x.shape[:-1], -1, 2, half)
        out = np.concatenate([pairs[..., :1, :] + pairs[..., 1:, :], pairs[..., :1, :] - pairs[..., 1:, :]], axis=-2)
        out, half = out.reshape(x.shape), 2 * half
    return out


def quantized_head(x: F32) -> tuple[I8, F32]:
    """Codes int8 and one scale for each vector of the last axis: amax / 127, rounded to nearest even."""
    amax = np.abs(x).max(axis=-1)
    usable = amax >= np.float32(1e-30)
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=usable)
    codes = np.rint(x * inverse[..., None]).astype(np.int8)
    return codes, np.where(usable, amax / np.float32(127), np.float32(0))
