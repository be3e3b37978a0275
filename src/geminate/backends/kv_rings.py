"""Keys and values of one sequence in arrays: full layers that grow, sliding layers in rings with slack.

A row of position p stands at index p mod rows in every slot. A ring holds the window and as many more
rows as one pass may write, so rolling back rejected rows never needs a row that was overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geminate.arrays import F16, F32, U64
from geminate.errors import BackendError, ContextLengthError
from geminate.kv.store import BLOCK, BlockData, KVDtype, KVStore, Section, SlotSpec, first_needed

# Rows pad to BLOCK, the kernels' tile of keys, so a tile of absolute positions is contiguous in a ring too.


class KVRings:
    """A `KVStore` in float16, read by the native kernels and by NumPy alike.

    Args:
        slots: one spec per KV-producing layer.
        max_context: maximum number of positions of the sequence.
        max_rows: maximum number of rows one pass may write (prefill chunk, or k + 1).
        whole: take the memory of ``max_context`` positions at once (untouched pages cost nothing) instead of growing.

    Attributes:
        keys, values: per slot, float16 [kv_heads, rows, head_dim].
        table: uint64 [slots, 3] of (address of keys, address of values, rows), for the native kernels.
        length: valid positions 0..length-1.
    """

    def __init__(self, slots: tuple[SlotSpec, ...], *, max_context: int, max_rows: int, whole: bool = False) -> None:
        self.slots = slots
        self.max_context = max_context
        self.max_rows = max_rows
        self.length = 0
        self._high = 0  # positions ever written: a ring has lost everything more than its rows below
        self._low = 0  # a ring restored from blocks holds nothing below this
        self.keys: list[F16] = []
        self.values: list[F16] = []
        self.table: U64 = np.zeros((len(slots), 3), dtype=np.uint64)
        self._full_rows = _tiles(max_context) if whole else min(_tiles(max(max_rows, 256)), _tiles(max_context))
        for spec in slots:
            rows = _rows(spec, self._full_rows, max_context=max_context, max_rows=max_rows)
            self.keys.append(np.zeros((spec.kv_heads, rows, spec.head_dim), dtype=np.float16))
            self.values.append(np.zeros((spec.kv_heads, rows, spec.head_dim), dtype=np.float16))
        # Rings never grow; (window, rows) of each.
        self._windows = [(s.window, k.shape[1]) for s, k in zip(slots, self.keys, strict=True) if s.window]
        self._refresh_table()

    def _refresh_table(self) -> None:
        for i, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            self.table[i] = (k.ctypes.data, v.ctypes.data, k.shape[1])

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
                self.keys[i] = _grown(self.keys[i], self._full_rows)
                self.values[i] = _grown(self.values[i], self._full_rows)
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
        """See `KVStore`: float16 keys and values [kv_heads, BLOCK, head_dim], slot by slot."""
        parts: list[bytes] = []
        for keys, values in zip(self.keys, self.values, strict=True):
            row = block * BLOCK % keys.shape[1]
            parts += keys[:, row : row + BLOCK].tobytes(), values[:, row : row + BLOCK].tobytes()
        return b"".join(parts)

    def restore(self, blocks: Sequence[BlockData]) -> None:
        """See `KVStore`."""
        if self.length:
            raise ValueError(f"only an empty cache can be filled, this one holds {self.length} positions")
        if wrong := next((len(data) for data in blocks if len(data) != block_bytes(self.slots)), None):
            raise ValueError(f"a block has {wrong} bytes where this model's have {block_bytes(self.slots)}")
        length = len(blocks) * BLOCK
        self._make_room(length)
        windows = [spec.window for spec in self.slots if spec.window]
        self._low = max((max(0, length - window + 1) for window in windows), default=0)
        offset = 0
        for spec, keys, values in zip(self.slots, self.keys, self.values, strict=True):
            first = first_needed(spec.window, len(blocks))
            count = spec.kv_heads * BLOCK * spec.head_dim
            for at in range(first, len(blocks)):
                row = at * BLOCK % keys.shape[1]
                both = np.frombuffer(blocks[at], dtype=np.float16, count=2 * count, offset=offset)
                pair = both.reshape(2, spec.kv_heads, BLOCK, spec.head_dim)
                keys[:, row : row + BLOCK], values[:, row : row + BLOCK] = pair
            offset += 4 * count
        self.length = self._high = length

    def rows(self, slot: int, start: int, stop: int) -> tuple[F32, F32]:
        """See `KVStore`."""
        at = np.arange(start, stop) % self.keys[slot].shape[1]
        return self.keys[slot][:, at].astype(np.float32), self.values[slot][:, at].astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(k.nbytes + v.nbytes for k, v in zip(self.keys, self.values, strict=True))


class RingFactory:
    """A `KVFactory` of `KVRings`.

    Raises:
        BackendError: a dtype that does not exist here.
    """

    def __init__(self, slots: tuple[SlotSpec, ...], *, max_rows: int, dtype: KVDtype = "float16") -> None:
        if dtype != "float16":
            raise BackendError(f"a KV cache in {dtype} is not supported; float16 is")
        self.slots, self.max_rows = slots, max_rows
        self.block_bytes = block_bytes(slots)
        self.sections = tuple(Section(nbytes=block_bytes((spec,)), window=spec.window) for spec in slots)
        self.layout = f"{dtype} keys, values [kv_heads, {BLOCK}, head_dim] of {slots}"

    def new(self, max_context: int, *, whole: bool = False) -> KVRings:
        """See `KVFactory`."""
        return KVRings(self.slots, max_context=max_context, max_rows=self.max_rows, whole=whole)

    def nbytes(self, max_context: int) -> int:
        """See `KVFactory`."""
        total = 0
        for spec in self.slots:
            rows = _rows(spec, _tiles(max_context), max_context=max_context, max_rows=self.max_rows)
            total += 2 * 2 * spec.kv_heads * spec.head_dim * rows
        return total


def block_bytes(slots: tuple[SlotSpec, ...]) -> int:
    """Bytes of one block of `BLOCK` positions over all slots."""
    return sum(2 * 2 * spec.kv_heads * spec.head_dim * BLOCK for spec in slots)


def _rows(spec: SlotSpec, full_rows: int, *, max_context: int, max_rows: int) -> int:
    if spec.window == 0:
        return full_rows
    # window - 1 older rows + the rows of one pass must coexist; see test_cache for the boundary.
    return _tiles(min(spec.window - 1 + max_rows, _tiles(max_context)))


def _tiles(rows: int) -> int:
    return -(-rows // BLOCK) * BLOCK


def _grown(old: F16, rows: int) -> F16:
    new = np.zeros((old.shape[0], rows, old.shape[2]), dtype=np.float16)
    new[:, : old.shape[1]] = old
    return new


def rings(store: KVStore, slot: int) -> tuple[F16, F16]:
    """The arrays of a slot, float16 [kv_heads, rows, head_dim]; position p is row p mod rows."""
    own = _own(store)
    return own.keys[slot], own.values[slot]


def table(store: KVStore) -> U64:
    """Addresses for the native kernels; see `KVRings.table`."""
    return _own(store).table


def _own(store: KVStore) -> KVRings:
    if not isinstance(store, KVRings):
        raise BackendError(f"a KV store of another backend ({type(store).__name__}); make it with this one's new_kv")
    return store
