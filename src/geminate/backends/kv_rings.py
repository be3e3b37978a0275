"""Keys and values of one sequence in arrays: full layers that grow, sliding layers in rings with slack.

A row of position p stands at index p mod rows in every slot. A ring holds the window and as many more
rows as one pass may write, so rolling back rejected rows never needs a row that was overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from geminate.arrays import F32, I64, U64
from geminate.backends.kv_planes import KVPlanes, planes, position_bytes
from geminate.errors import BackendError, ContextLengthError
from geminate.kv.store import BLOCK, BlockData, KVDtype, KVStore, Section, SlotSpec, first_needed

# Rows pad to BLOCK, the kernels' tile of keys, so a tile of absolute positions is contiguous in a ring too.


class KVRings:
    """A `KVStore` read by the native kernels and by NumPy alike.

    Args:
        slots: one spec per KV-producing layer.
        max_context: maximum number of positions of the sequence.
        max_rows: maximum number of rows one pass may write (prefill chunk, or k + 1).
        dtype: the format of keys and values.
        whole: take the memory of ``max_context`` positions at once (untouched pages cost nothing) instead of growing.

    Attributes:
        planes: keys and values of each slot.
        table: uint64 [slots, 5] of (address of keys, address of values, rows, addresses of key and value scales, 0
            for float16), for the native kernels.
        length: valid positions 0..length-1.
    """

    def __init__(
        self,
        slots: tuple[SlotSpec, ...],
        *,
        max_context: int,
        max_rows: int,
        dtype: KVDtype = "float16",
        whole: bool = False,
    ) -> None:
        self.slots = slots
        self.max_context = max_context
        self.max_rows = max_rows
        self.length = 0
        self._high = 0  # positions ever written: a ring has lost everything more than its rows below
        self._low = 0  # a ring restored from blocks holds nothing below this
        self.dtype = dtype
        self.planes: list[KVPlanes] = []
        self.table: U64 = np.zeros((len(slots), 5), dtype=np.uint64)
        self._full_rows = _tiles(max_context) if whole else min(_tiles(max(max_rows, 256)), _tiles(max_context))
        for spec in slots:
            rows = _rows(spec, self._full_rows, max_context=max_context, max_rows=max_rows)
            self.planes.append(planes(dtype, spec, rows // BLOCK))
        # Rings never grow; (window, rows) of each.
        self._windows = [(s.window, self._rows(i)) for i, s in enumerate(slots) if s.window]
        self._refresh_table()

    def _rows(self, slot: int) -> int:
        blocks: int = self.planes[slot].arrays[0].shape[1]
        return blocks * BLOCK

    def _refresh_table(self) -> None:
        for i, held in enumerate(self.planes):
            keys, values, *scales = (array.ctypes.data for array in held.arrays)
            self.table[i] = (keys, values, self._rows(i), *(scales or (0, 0)))

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` more positions after ``length``.

        Raises:
            ContextLengthError: they would pass ``max_context``.
            ValueError: more rows than one pass may write.
        """
        if rows > self.max_rows:
            raise ValueError(f"a pass of {rows} rows on a cache made for {self.max_rows}")
        need = self.length + rows
        if need > self.max_context:
            raise ContextLengthError(f"position {need} lies past the context of {self.max_context} tokens")
        self._make_room(need)

    def _make_room(self, positions: int) -> None:
        """Let the arrays without a window grow to hold ``positions``."""
        if positions <= self._full_rows:
            return
        self._full_rows = min(_tiles(max(positions, 2 * self._full_rows)), _tiles(self.max_context))
        for i, spec in enumerate(self.slots):
            if spec.window == 0:
                grown = planes(self.dtype, spec, self._full_rows // BLOCK)
                for new, old in zip(grown.arrays, self.planes[i].arrays, strict=True):
                    new[:, : old.shape[1]] = old
                self.planes[i] = grown
        self._refresh_table()

    def advance(self, rows: int) -> None:
        """Count ``rows`` positions that a pass has just written."""
        self.length += rows
        self._high = max(self._high, self.length)

    def truncate(self, length: int) -> None:
        """Forget positions >= ``length``: the rollback of rejected drafts.

        Raises:
            ValueError: ``length`` is longer than the cache, or so short that a ring has lost rows it needs.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} positions to {length}")
        low, high = self._low, self._high
        for window, rows in self._windows:
            oldest_needed = max(0, length - window + 1)
            oldest_kept = max(low, high - rows)
            if oldest_kept > oldest_needed:
                raise ValueError(
                    f"rolling back from {high} to {length} needs position {oldest_needed}, "
                    f"but the ring of {rows} rows keeps {oldest_kept} onwards"
                )
        self.length = length

    def holds(self, start: int) -> bool:
        """Whether every slot still has the rows of positions ``start`` .. ``length`` - 1."""
        return all(start >= max(self._low, self._high - rows) for _, rows in self._windows)

    def export(self, block: int) -> bytes:
        """See `KVStore`: the block's part of every array, slot by slot."""
        parts: list[bytes] = []
        for held in self.planes:
            parts += (array[:, block % array.shape[1]].tobytes() for array in held.arrays)
        return b"".join(parts)

    def restore(self, blocks: Sequence[BlockData]) -> None:
        """See `KVStore`."""
        if self.length:
            raise ValueError(f"only an empty cache can be filled, this one holds {self.length} positions")
        size = block_bytes(self.slots, self.dtype)
        if wrong := next((len(data) for data in blocks if len(data) != size), None):
            raise ValueError(f"a block has {wrong} bytes where this model's have {size}")
        length = len(blocks) * BLOCK
        self._make_room(length)
        windows = [spec.window for spec in self.slots if spec.window]
        self._low = max((max(0, length - window + 1) for window in windows), default=0)
        offset = 0
        for spec, held in zip(self.slots, self.planes, strict=True):
            first = first_needed(spec.window, len(blocks))
            for array in held.arrays:
                place = array[:, 0]
                for at in range(first, len(blocks)):
                    data = np.frombuffer(blocks[at], dtype=array.dtype, count=place.size, offset=offset)
                    array[:, at % array.shape[1]] = data.reshape(place.shape)
                offset += place.nbytes
        self.length = self._high = length

    def rows(self, slot: int, start: int, stop: int) -> tuple[F32, F32]:
        """See `KVStore`."""
        return self.planes[slot].read(self.ring_rows(slot, start, stop))

    def ring_rows(self, slot: int, start: int, stop: int) -> I64:
        """Rows of a slot in which positions ``start`` .. ``stop`` - 1 stand."""
        return np.arange(start, stop) % self._rows(slot)

    def write(self, slot: int, position: int, keys: F32, values: F32) -> None:
        """Put a position's keys and values, float32 [kv_heads, head_dim], into a slot."""
        self.planes[slot].write(position % self._rows(slot), keys, values)

    @property
    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """All memory of the cache, slot by slot."""
        return [array for held in self.planes for array in held.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(array.nbytes for array in self.arrays)


class RingFactory:
    """A `KVFactory` of `KVRings`.

    Raises:
        BackendError: a dtype that does not exist here.
    """

    def __init__(self, slots: tuple[SlotSpec, ...], *, max_rows: int, dtype: KVDtype = "float16") -> None:
        if dtype not in get_args(KVDtype):
            raise BackendError(f"a KV cache in {dtype} is not supported; {' and '.join(get_args(KVDtype))} are")
        self.slots, self.max_rows, self.dtype = slots, max_rows, dtype
        self.block_bytes = block_bytes(slots, dtype)
        self.sections = tuple(Section(nbytes=block_bytes((spec,), dtype), window=spec.window) for spec in slots)
        self.layout = f"{dtype} planes of {BLOCK} positions, {slots}"

    def new(self, max_context: int, *, whole: bool = False) -> KVRings:
        """See `KVFactory`."""
        return KVRings(self.slots, max_context=max_context, max_rows=self.max_rows, dtype=self.dtype, whole=whole)

    def nbytes(self, max_context: int) -> int:
        """See `KVFactory`."""
        total = 0
        for spec in self.slots:
            rows = _rows(spec, _tiles(max_context), max_context=max_context, max_rows=self.max_rows)
            total += position_bytes(self.dtype, spec) * rows
        return total


def block_bytes(slots: tuple[SlotSpec, ...], dtype: KVDtype = "float16") -> int:
    """Bytes of one block of `BLOCK` positions over all slots."""
    return sum(position_bytes(dtype, spec) * BLOCK for spec in slots)


def _rows(spec: SlotSpec, full_rows: int, *, max_context: int, max_rows: int) -> int:
    if spec.window == 0:
        return full_rows
    # window - 1 older rows + the rows of one pass must coexist; see test_cache for the boundary.
    return _tiles(min(spec.window - 1 + max_rows, _tiles(max_context)))


def _tiles(rows: int) -> int:
    return -(-rows // BLOCK) * BLOCK


def rings(store: KVStore) -> KVRings:
    """The store itself, which every backend here makes as `KVRings`.

    Raises:
        BackendError: another backend's store.
    """
    if not isinstance(store, KVRings):
        raise BackendError(f"a KV store of another backend ({type(store).__name__}); make it with this one's new_kv")
    return store


def table(store: KVStore) -> U64:
    """Addresses for the native kernels; see `KVRings.table`."""
    return rings(store).table
