"""The memory of keys and values of a server: one bound over running sequences and kept prefixes.

A sequence takes, before it starts, what it can need at most, so nothing that runs can run out. What is left keeps
blocks of finished computation: a tree over token ids whose nodes hold the keys and values of `KEY_TILE` positions in
every slot, sliding layers included. A prompt that begins like one seen before starts from copies of the longest such
path; by the numeric contract they are the bytes that it would have computed.

Blocks are captured while their rows are still in the rings, as soon as they are full of verified tokens, and
forgotten from the tips of the longest unused paths.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from geminate.arrays import F16
from geminate.kv.cache import KEY_TILE, KVCache, SlotSpec, block_bytes, cache_bytes

Rows = list[tuple[F16, F16]]


@dataclass(eq=False, slots=True)
class _Block:
    """A node: its tokens under its parent, and the rows of its positions (None at the root)."""

    tokens: bytes
    parent: _Block | None
    rows: Rows | None
    children: dict[bytes, _Block] = field(default_factory=dict)
    pins: int = 0


@dataclass(eq=False, slots=True)
class Lease:
    """What a running sequence holds: its cache, its bytes, and how far along the tree its tokens are."""

    cache: KVCache
    nbytes: int
    block: _Block
    blocks: int
    capturing: bool = True


class KVMemory:
    """Gives caches to sequences within a bound and keeps prefixes in what is left.

    Args:
        slots, max_rows: of the target.
        limit: bytes.
        keep_prefixes: whether finished computation is kept.

    Attributes:
        used: bytes leased to sequences. kept: bytes of blocks.
        queries, hits: prompt tokens looked up, and found.
    """

    def __init__(self, slots: tuple[SlotSpec, ...], *, max_rows: int, limit: int, keep_prefixes: bool = True) -> None:
        self.slots, self.max_rows, self.limit = slots, max_rows, limit
        self.keep_prefixes = keep_prefixes
        self.used = self.kept = 0
        self.queries = self.hits = 0
        self._block_bytes = block_bytes(slots)
        self._root = _Block(b"", None, None)
        # Least recently used first. A path is touched from its tip to the root, so no node is older than its children.
        self._order: OrderedDict[_Block, None] = OrderedDict()

    def need(self, context: int) -> int:
        """Bytes of a sequence that may grow to ``context`` positions."""
        return cache_bytes(self.slots, max_context=context, max_rows=self.max_rows)

    def lease(self, prompt: list[int], context: int) -> Lease | None:
        """A cache for a sequence, filled with the longest known prefix of its prompt but for the last token.

        Returns:
            None while the bytes are not there; they will be when enough running sequences have ended.
        """
        nbytes = self.need(context)
        path = self._find(prompt) if self.keep_prefixes else []
        tip = path[-1] if path else self._root
        tip.pins += 1  # or making room could forget it
        if not self._make_room(nbytes):
            tip.pins -= 1
            # A long prefix and the cache it would fill may not fit side by side; the cache alone does in the end.
            path, tip = [], self._root
            if not self._make_room(nbytes):
                return None
            tip.pins += 1
        try:
            cache = KVCache(self.slots, max_context=context, max_rows=self.max_rows, whole=True)
            cache.restore([block.rows for block in path if block.rows is not None])
        except MemoryError:
            tip.pins -= 1
            raise
        self.used += nbytes
        self._touch(tip)
        self.queries += len(prompt)
        self.hits += cache.length
        return Lease(cache, nbytes, tip, len(path))

    def capture(self, lease: Lease, tokens: list[int]) -> None:
        """Keep the blocks that became full: positions below the cache's length, of ``tokens``."""
        cache = lease.cache
        while lease.capturing and self.keep_prefixes and (lease.blocks + 1) * KEY_TILE <= cache.length:
            start = lease.blocks * KEY_TILE
            key = _key(tokens, lease.blocks)
            block = lease.block.children.get(key)
            if block is None:
                if not cache.holds(start) or not self._make_room(self._block_bytes):
                    lease.capturing = False  # what follows would hang in the air
                    return
                block = _Block(key, lease.block, cache.copy_out(start, start + KEY_TILE))
                lease.block.children[key] = block
                self.kept += self._block_bytes
            lease.block.pins -= 1
            block.pins += 1
            lease.block, lease.blocks = block, lease.blocks + 1
            self._touch(block)

    def release(self, lease: Lease) -> None:
        """Give a sequence's bytes back; its blocks stay as long as there is room."""
        if lease.nbytes:
            self.used -= lease.nbytes
            lease.nbytes = 0
            lease.block.pins -= 1

    def _find(self, prompt: list[int]) -> list[_Block]:
        path, block = [], self._root
        # The last token is always computed: its hidden state starts the answer.
        for at in range((len(prompt) - 1) // KEY_TILE):
            child = block.children.get(_key(prompt, at))
            if child is None:
                break
            path.append(child)
            block = child
        return path

    def _touch(self, tip: _Block) -> None:
        block: _Block | None = tip
        while block is not None and block is not self._root:
            self._order[block] = None
            self._order.move_to_end(block)
            block = block.parent

    def _make_room(self, nbytes: int) -> bool:
        if self.used + nbytes > self.limit:
            return False  # forgetting every prefix would not help
        while self.used + self.kept + nbytes > self.limit:
            oldest = next((b for b in self._order if not b.pins and not b.children), None)
            if oldest is None:
                return False
            del self._order[oldest]
            assert oldest.parent is not None
            del oldest.parent.children[oldest.tokens]
            self.kept -= self._block_bytes
        return True


def _key(tokens: list[int], block: int) -> bytes:
    return np.array(tokens[block * KEY_TILE : (block + 1) * KEY_TILE], dtype=np.int32).tobytes()
