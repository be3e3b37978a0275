"""KV-cache manager: one byte budget shared by running sequences and the prefix cache.

A sequence reserves, before it starts, the most it can need, so nothing that runs can run out. What is left holds the
prefix cache: a prompt that shares a prefix with an earlier one starts from copies of its blocks; by the numeric
contract these are the bytes it would have computed itself.

Blocks are captured while their rows are still in the rings, as soon as they are full of verified tokens, and
forgotten from the tips of the paths that were not used for longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from geminate.kv.prefix_tree import Block, ContentSpan, PrefixTree, block_key
from geminate.kv.store import BLOCK, BlockData, KVFactory, KVStore


def nothing_behind(known: Sequence[BlockData]) -> Sequence[BlockData]:
    """No further blocks."""
    return ()


@dataclass(eq=False, slots=True)
class Lease:
    """What a running sequence holds.

    Attributes:
        cache: its keys and values. nbytes: its share of the budget; 0 once it is given back.
        contents: what its positions show beside token ids.
        block, blocks: how far along the prefix tree its positions are.
        capturing: whether further blocks can join the tree.
    """

    cache: KVStore
    nbytes: int
    contents: Sequence[ContentSpan]
    block: Block
    blocks: int
    capturing: bool = True


class KVBudget:
    """Gives stores to sequences within a bound and keeps prefixes in what is left.

    Args:
        factory: makes the stores.
        limit: bytes.
        keep_prefixes: whether finished blocks are kept.

    Attributes:
        used: bytes leased to sequences.
        queries, hits: prompt tokens looked up, and found.
    """

    def __init__(self, factory: KVFactory, *, limit: int, keep_prefixes: bool = True) -> None:
        self.factory, self.limit = factory, limit
        self.keep_prefixes = keep_prefixes
        self.used = self.queries = self.hits = 0
        self._tree = PrefixTree()

    @property
    def kept(self) -> int:
        """Bytes of the prefix cache."""
        return self._tree.nbytes

    def digests(self, most: int) -> list[bytes]:
        """See `PrefixTree.digests`."""
        return self._tree.digests(most)

    def need(self, context: int) -> int:
        """Bytes of a sequence that may grow to ``context`` positions."""
        return self.factory.nbytes(context)

    def fits(self, context: int) -> bool:
        """Whether a sequence that may grow to ``context`` positions would get its bytes now."""
        return self.used + self.need(context) <= self.limit

    def known(self, prompt: Sequence[int], contents: Sequence[ContentSpan] = ()) -> int:
        """Blocks of a prompt that are kept here."""
        return len(self._tree.find(prompt, contents)) if self.keep_prefixes else 0

    def lease(
        self,
        prompt: Sequence[int],
        context: int,
        contents: Sequence[ContentSpan] = (),
        *,
        reuse: bool = True,
        behind: Callable[[Sequence[BlockData]], Sequence[BlockData]] = nothing_behind,
    ) -> Lease | None:
        """A store for a sequence, filled with the longest known prefix of its prompt but for the last token.

        Args:
            reuse: False leaves the store empty.
            behind: called with the blocks that are known here; gives those behind them that are known elsewhere.

        Returns:
            None while the bytes are not there; they will be when enough running sequences have ended.
        """
        nbytes = self.need(context)
        path = self._tree.find(prompt, contents) if self.keep_prefixes and reuse else []
        tip = path[-1] if path else self._tree.root
        tip.pins += 1  # or making room could forget it
        if not self._make_room(nbytes):
            tip.pins -= 1
            # A long prefix and the store it would fill may not fit side by side; the store alone does in the end.
            path, tip = [], self._tree.root
            if not self._make_room(nbytes):
                return None
            tip.pins += 1
        try:
            cache = self.factory.new(context, whole=True)
            known: list[BlockData] = [block.data for block in path]
            more = behind(known) if reuse else ()
            cache.restore([*known, *more])
        except BaseException:
            tip.pins -= 1
            raise
        self.used += nbytes
        self._tree.touch(tip)
        self.queries += len(prompt)
        self.hits += len(path) * BLOCK
        lease = Lease(cache, nbytes, contents, tip, len(path))
        self._join(lease, prompt, more)
        return lease

    def _join(self, lease: Lease, prompt: Sequence[int], blocks: Sequence[BlockData]) -> None:
        """Keep blocks that come from elsewhere, as far as there is room."""
        for data in blocks:
            if not (self.keep_prefixes and self._make_room(self.factory.block_bytes)):
                lease.capturing = False
                return
            key = block_key(prompt, lease.contents, lease.blocks)
            self._step(lease, self._tree.add(lease.block, key, data))

    def capture(self, lease: Lease, tokens: Sequence[int]) -> None:
        """Keep the blocks that became full: positions below the store's length, of ``tokens``."""
        cache = lease.cache
        while lease.capturing and self.keep_prefixes and (lease.blocks + 1) * BLOCK <= cache.length:
            key = block_key(tokens, lease.contents, lease.blocks)
            block = lease.block.children.get(key)
            if block is None:
                if not cache.holds(lease.blocks * BLOCK) or not self._make_room(self.factory.block_bytes):
                    lease.capturing = False  # what follows would hang in the air
                    return
                block = self._tree.add(lease.block, key, cache.export(lease.blocks))
            self._step(lease, block)

    def _step(self, lease: Lease, block: Block) -> None:
        """A sequence stands on the next block."""
        lease.block.pins -= 1
        block.pins += 1
        lease.block, lease.blocks = block, lease.blocks + 1
        self._tree.touch(block)

    def release(self, lease: Lease) -> None:
        """Give a sequence's bytes back; its blocks stay as long as there is room."""
        if lease.nbytes:
            self.used -= lease.nbytes
            lease.nbytes = 0
            lease.block.pins -= 1

    def _make_room(self, nbytes: int) -> bool:
        if self.used + nbytes > self.limit:
            return False  # forgetting every prefix would not help
        while self.used + self.kept + nbytes > self.limit:
            if not self._tree.forget_oldest():
                return False
        return True
