"""Keys and values of one sequence as the engine sees them; how they lie in memory is the backend's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from geminate.arrays import F32
from geminate.errors import ParameterError

BLOCK = 64
"""Positions of a block, the unit that leaves a store and comes back."""
ARITHMETIC = 2
"""Counts up whenever a release changes the bits of keys, values or logits (kArithmetic in native/contract.h)."""
KVDtype = Literal["float16", "int8"]
"""Formats of keys and values."""
KVFormat = Literal["f16", "int8"]
"""The same as options and reports name them."""
KV_FORMATS: dict[KVFormat, KVDtype] = {"f16": "float16", "int8": "int8"}


def check_kv(name: str) -> KVFormat:
    """A KV format by its name.

    Raises:
        ParameterError: another name.
    """
    for known in KV_FORMATS:
        if name == known:
            return known
    raise ParameterError(f"kv must be one of {', '.join(KV_FORMATS)}, not {name!r}")


BlockData = bytes | memoryview
"""A block outside of a store."""


@dataclass(frozen=True, kw_only=True)
class SlotSpec:
    """One KV-producing layer: heads, head dimension, and window (0 for full attention)."""

    kv_heads: int
    head_dim: int
    window: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """Consecutive bytes of an exported block: keys and values of one slot, and its window (0 for full attention)."""

    nbytes: int
    window: int


def first_needed(window: int, blocks: int) -> int:
    """Of ``blocks`` blocks from position 0 on, the first whose rows a slot needs for the positions behind them."""
    return max(0, blocks * BLOCK - window + 1) // BLOCK if window else 0


class KVStore(Protocol):
    """Keys and values of one sequence, positions 0 .. length - 1."""

    length: int
    max_context: int

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` more positions after ``length``.

        Raises:
            ContextLengthError: they would pass ``max_context``.
            ValueError: more rows than one pass may write.
        """
        ...

    def advance(self, rows: int) -> None:
        """Count ``rows`` positions that a pass has just written."""
        ...

    def truncate(self, length: int) -> None:
        """Forget positions >= ``length``: the rollback of rejected drafts.

        Raises:
            ValueError: ``length`` is longer than the store, or so short that rows it needs are lost.
        """
        ...

    def holds(self, start: int) -> bool:
        """Whether every slot still has the rows of positions ``start`` .. ``length`` - 1."""
        ...

    def export(self, block: int) -> bytes:
        """Copy of positions ``block * BLOCK`` .. ``(block + 1) * BLOCK - 1`` of every slot, for `restore`."""
        ...

    def restore(self, blocks: Sequence[BlockData]) -> None:
        """Fill an empty store with consecutive blocks from position 0 on, as `export` of a store alike gave them.

        Of a slot with a window only blocks from `first_needed` on are read.

        Raises:
            ValueError: the store is not empty, or a block has another size.
        """
        ...

    def rows(self, slot: int, start: int, stop: int) -> tuple[F32, F32]:
        """Keys and values of positions ``start`` .. ``stop`` - 1 of a slot, each float32 [kv_heads, n, head_dim]."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        ...


class KVFactory(Protocol):
    """Makes the stores of one model; a backend gives it for slots and a dtype.

    Attributes:
        block_bytes: bytes of an exported block. sections: what it consists of, slot by slot.
        layout: how those bytes are to be read, in words; another format or order has other words.
    """

    @property
    def block_bytes(self) -> int: ...

    @property
    def sections(self) -> tuple[Section, ...]: ...

    @property
    def layout(self) -> str: ...

    def new(self, max_context: int, *, whole: bool = False) -> KVStore:
        """An empty store; ``whole``: takes its memory at once (untouched pages cost nothing) instead of growing."""
        ...

    def nbytes(self, max_context: int) -> int:
        """Bytes of a store made ``whole``."""
        ...
