"""The prefix cache: finished blocks of keys and values in a tree, found by what stands at their positions.

A position's identity is its token id and, where rows brought embeddings of their own (an image, a sound), the digest of
that content: two images behind the same placeholder ids never share a block.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from geminate.kv.store import BLOCK, BlockData

DIGEST_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentSpan:
    """Positions ``start`` .. ``stop`` - 1 show content with this digest instead of their token ids."""

    start: int
    stop: int
    digest: bytes


def block_key(tokens: Sequence[int], contents: Sequence[ContentSpan], block: int) -> bytes:
    """What stands at a block's positions: its ids as int32, then every span that reaches into it."""
    start, stop = block * BLOCK, (block + 1) * BLOCK
    key = np.array(tokens[start:stop], dtype=np.int32).tobytes()
    for span in contents:
        if span.start < stop and start < span.stop:
            # Where the block begins within the content counts as well: the same picture may be cut elsewhere.
            place = np.array([span.start - start, span.stop - start, len(span.digest)], dtype=np.int64)
            key += place.tobytes() + span.digest
    return key


def digest_behind(parent: bytes, key: bytes) -> bytes:
    """Digest of a block and all blocks before it, from the parent's digest (b"" at the root) and the block's key."""
    return hashlib.blake2b(parent + key, digest_size=DIGEST_BYTES).digest()


def block_digests(tokens: Sequence[int], contents: Sequence[ContentSpan]) -> list[bytes]:
    """Digests of the whole blocks of a prompt, as `PrefixTree.digests` has them; the last token's block is left out."""
    found, digest = [], b""
    for block in range((len(tokens) - 1) // BLOCK):
        digest = digest_behind(digest, block_key(tokens, contents, block))
        found.append(digest)
    return found


def shared_length(
    a: Sequence[int], a_contents: Sequence[ContentSpan], b: Sequence[int], b_contents: Sequence[ContentSpan]
) -> int:
    """Positions from 0 on at which two sequences show the same."""
    limit = min(len(a), len(b))
    for span in set(a_contents) ^ set(b_contents):
        limit = min(limit, span.start)
    same = 0
    while same < limit and a[same] == b[same]:
        same += 1
    return same


@dataclass(eq=False, slots=True)
class Block:
    """A node: its key under its parent, and its exported rows (empty at the root).

    Attributes:
        digest: of what stands here and before, `DIGEST_BYTES` long; empty at the root.
        pins: running sequences that stand here; a pinned block is never forgotten.
    """

    key: bytes
    parent: Block | None
    data: BlockData
    digest: bytes = b""
    children: dict[bytes, Block] = field(default_factory=dict)
    pins: int = 0


class PrefixTree:
    """Blocks by what they show, least recently used first to go."""

    def __init__(self) -> None:
        self.root = Block(b"", None, b"")
        self.nbytes = 0
        # A path is touched from its tip to the root, so no node is older than its children.
        self._order: OrderedDict[Block, None] = OrderedDict()

    def find(self, tokens: Sequence[int], contents: Sequence[ContentSpan]) -> list[Block]:
        """The longest known path of whole blocks of ``tokens`` but for the last one, which is always computed."""
        path, block = [], self.root
        for at in range((len(tokens) - 1) // BLOCK):
            child = block.children.get(block_key(tokens, contents, at))
            if child is None:
                break
            path.append(child)
            block = child
        return path

    def add(self, parent: Block, key: bytes, data: BlockData) -> Block:
        """A new block under ``parent``."""
        block = parent.children[key] = Block(key, parent, data, digest_behind(parent.digest, key))
        self.nbytes += len(data)
        return block

    def digests(self, most: int) -> list[bytes]:
        """Digests of up to ``most`` blocks, the most recently used ones; any thread may ask."""
        return [block.digest for block in list(self._order)[-most:]]

    def touch(self, tip: Block) -> None:
        """A path was used."""
        block: Block | None = tip
        while block is not None and block is not self.root:
            self._order[block] = None
            self._order.move_to_end(block)
            block = block.parent

    def forget_oldest(self) -> bool:
        """Drop the least recently used tip that no sequence stands on; False if there is none."""
        oldest = next((b for b in self._order if not b.pins and not b.children), None)
        if oldest is None:
            return False
        del self._order[oldest]
        assert oldest.parent is not None
        del oldest.parent.children[oldest.key]
        self.nbytes -= len(oldest.data)
        return True
