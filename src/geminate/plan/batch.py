"""What one forward pass works on: rows of one or more sequences, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geminate.arrays import F32, I32
from geminate.kv.store import KVStore


@dataclass(kw_only=True, slots=True, eq=False)  # made every round: frozen ones take three times as long
class Rows:
    """The rows one sequence puts into a pass: consecutive positions from the end of its cache.

    Attributes:
        cache: keys and values of the positions before.
        ids: int32 [n] or a list of token ids, n >= 1.
        wanted: how many of the last rows need hidden states and logits, 0 to n. The others end where the last layer's
            keys and values are written.
        embeddings: float32 [n, hidden], given instead of the scaled embeddings of ``ids`` (images, sound); None: looked
            up. ``ids`` still stand for the rows wherever else ids are read (per-layer embeddings).
        largest: of the wanted logits only the largest of each row is needed.
    """

    cache: KVStore
    ids: Sequence[int] | I32
    wanted: int = 0
    embeddings: F32 | None = None
    largest: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class Batch:
    """All rows of a pass; `Batch.of` makes it.

    Attributes:
        ids, positions: int32 [M], M the rows of all sequences together.
        sequences: int32 [M], index into ``caches`` of each row, ascending.
        caches: one per sequence. counts: rows of each sequence.
        wanted: int32 [H], increasing indices of the rows whose hidden states and logits are wanted; may be empty.
        embeddings: row index -> float32 [hidden], for rows that bring their own; None: no row does.
        largest: of the wanted logits only the largest of each row is needed, and only that is sure to be exact; the
            others may be too large, but stay below it. Only kernels that save time by it take notice.
    """

    ids: I32
    positions: I32
    sequences: I32
    caches: Sequence[KVStore]
    counts: Sequence[int]
    wanted: I32
    embeddings: dict[int, F32] | None = None
    largest: bool = False

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> Batch:
        """The batch of these parts, in order; reads the caches' lengths and changes nothing."""
        if len(parts) == 1 and parts[0].embeddings is None:
            return cls._of_one(parts[0])
        ids: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        counts: list[int] = []
        given: dict[int, F32] = {}
        for index, part in enumerate(parts):
            count, start, first = len(part.ids), part.cache.length, len(ids)
            ids.extend(part.ids)
            positions.extend(range(start, start + count))
            sequences.extend([index] * count)
            wanted.extend(range(first + count - part.wanted, first + count))
            counts.append(count)
            if part.embeddings is not None:
                given.update(zip(range(first, first + count), part.embeddings, strict=True))
        return cls(
            ids=np.array(ids, dtype=np.int32),
            positions=np.array(positions, dtype=np.int32),
            sequences=np.array(sequences, dtype=np.int32),
            caches=[part.cache for part in parts],
            counts=counts,
            wanted=np.array(wanted, dtype=np.int32),
            embeddings=given or None,
            largest=all(part.largest for part in parts if part.wanted),
        )

    @classmethod
    def _of_one(cls, part: Rows) -> Batch:
        """The same for one sequence, where a small model's round is short enough to notice the difference."""
        count, start = len(part.ids), part.cache.length
        return cls(
            ids=np.array(part.ids, dtype=np.int32),
            positions=np.arange(start, start + count, dtype=np.int32),
            sequences=np.zeros(count, dtype=np.int32),
            caches=[part.cache],
            counts=[count],
            wanted=np.arange(count - part.wanted, count, dtype=np.int32),
            largest=part.largest,
        )

    def whole(self) -> Batch:
        """The same pass with every row wanted, all of its logits."""
        return replace(self, wanted=np.arange(len(self.ids), dtype=np.int32), largest=False)

    def check_taps(self) -> None:
        """Raises ValueError unless every row is wanted: the others do not reach all taps."""
        if len(self.wanted) != len(self.ids):
            raise ValueError(f"taps show every row, and of {len(self.ids)} rows only {len(self.wanted)} are wanted")
