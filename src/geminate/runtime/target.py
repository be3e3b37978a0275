"""The compiled target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from geminate.arrays import F32, I32
from geminate.backends.base import Backend
from geminate.kv.store import KV_FORMATS, KVFormat, KVStore
from geminate.plan.batch import Batch, Rows
from geminate.plan.config import TargetConfig
from geminate.plan.nodes import Plan
from geminate.weights.store import WeightStore


class TargetModel:
    """A compiled target.

    Args:
        config, store: as loaded from one checkpoint.
        plan: of that configuration over these weights.
        backend: runs the plan.
        max_rows: maximum number of rows of one pass, all sequences together.
        kv_format: of keys and values.

    Attributes:
        on_ids: called with the token ids int32 [M] of every pass, before it; what it raises ends the pass.
    """

    def __init__(
        self,
        config: TargetConfig,
        store: WeightStore,
        plan: Plan,
        backend: Backend,
        *,
        max_rows: int,
        kv_format: KVFormat = "f16",
    ) -> None:
        self.config = config
        self.store = store
        self.backend = backend
        self.max_rows = max_rows
        self.slots = config.kv_slots
        self.kv_format = kv_format
        self.on_ids: Callable[[I32], None] | None = None
        self.kv = backend.new_kv(self.slots, max_rows=max_rows, dtype=KV_FORMATS[kv_format])
        self.plan = plan
        self.program = backend.compile(plan, max_rows=max_rows)

    def new_cache(self, max_context: int | None = None) -> KVStore:
        """An empty cache for one sequence."""
        limit = self.config.max_position_embeddings
        return self.kv.new(min(max_context or limit, limit))

    def forward(self, batch: Batch, taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """One pass; see `geminate.backends.base.Program.run`. Makes room in the caches and writes KV rows.

        The caches' lengths stay: `extend` advances them, and a caller that repeats a pass does not want that. Taps are
        of every row, whatever is wanted.
        """
        for cache, count in zip(batch.caches, batch.counts, strict=True):
            cache.reserve(count)
        if self.on_ids is not None:
            self.on_ids(batch.ids)
        if taps is None:
            return self.program.run(batch)
        hidden, logits = self.program.run(batch.whole(), taps=taps)
        return hidden[batch.wanted], logits[batch.wanted]

    def extend(self, parts: Sequence[Rows], taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """One pass over new rows of one or more sequences, which their caches then hold.

        Returns:
            hidden float32 [wanted rows, hidden], post-norm, and logits float32 [wanted rows, vocab].
        """
        out = self.forward(Batch.of(parts), taps)
        for part in parts:
            part.cache.advance(len(part.ids))
        return out

    def chunks(self, ids: I32, chunk: int, cache: KVStore | None = None) -> Iterator[Rows]:
        """Consecutive `Rows` of a text, ``chunk`` at a time, all logits wanted; by default from an empty cache."""
        cache = cache or self.new_cache()
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            yield Rows(cache=cache, ids=part, wanted=len(part))

    def logits(self, ids: I32, chunk: int, taps: dict[str, list[F32]] | None = None) -> F32:
        """Teacher-forced logits float32 [len(ids), vocab] through the decoding kernels, in chunks."""
        out: list[F32] = []
        for rows in self.chunks(ids, chunk):
            tapped: dict[str, F32] | None = None if taps is None else {}
            out.append(self.extend([rows], tapped)[1])
            for name, value in (tapped or {}).items():
                assert taps is not None
                taps.setdefault(name, []).append(value)
        return np.concatenate(out)
