"""The target: the text model of Gemma 4 (or 3, by configuration) as a plan, and the compiled model around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from geminate.arrays import F32, I32
from geminate.backends.base import Backend
from geminate.kv.store import KVStore, SlotSpec
from geminate.plan.batch import Batch, Rows
from geminate.plan.builder import PlanBuilder, add_layer
from geminate.plan.config import TargetConfig
from geminate.plan.nodes import (
    AddScaled,
    Embed,
    GatherRows,
    Linear,
    Plan,
    RopeTable,
    RowLookup,
    Softcap,
    Tap,
)
from geminate.weights.store import WeightStore


def rope_tables(config: TargetConfig) -> dict[str, RopeTable]:
    """One rotary table per layer kind that occurs."""
    tables: dict[str, RopeTable] = {}
    for layer in config.layers:
        if layer.kind not in tables:
            tables[layer.kind] = RopeTable(config.inv_freq(layer.kind), layer.head_dim)
    return tables


def target_plan(config: TargetConfig, store: WeightStore) -> Plan:
    """The plan of Gemma4ForCausalLM.forward, or Gemma3ForCausalLM's: rows of ids to hidden states and logits."""
    b = PlanBuilder(store, hidden_size=config.hidden_size, eps=config.rms_norm_eps, ropes=rope_tables(config))
    b.buffer("x", config.hidden_size)
    b.add(Embed(out="x", table=store.embedding(), scale=config.embed_scale))
    if config.ple_dim:
        width = len(config.layers) * config.ple_dim
        b.linear("x", "ple", "per_layer_model_projection", scale=config.hidden_size**-0.5)
        b.norm("ple", "ple", "per_layer_projection_norm", groups=len(config.layers))
        table = store.row_table("embed_tokens_per_layer")
        b.add(RowLookup(out=b.buffer("ple_rows", width), table=table, scale=config.ple_scale))
        b.add(AddScaled(a="ple", b="ple_rows", out="ple", scale=2.0**-0.5))
    for layer in config.layers:
        # KV-producing layers come first, so a donor's layer index is its slot.
        add_layer(
            b,
            layer,
            slot=layer.kv_donor,
            own_position=True,
            moe=config.moe,
            ple_dim=config.ple_dim,
        )
    b.norm("x", "hidden", "norm")
    b.add(Tap(x="hidden", name="norm"))
    b.add(GatherRows(x="hidden", out=b.buffer("head_in", config.hidden_size)))
    embedding = store.embedding()
    b.add(Linear(x="head_in", out=b.buffer("logits", config.vocab_size), w=embedding))
    if config.softcap is not None:
        b.add(Softcap(x="logits", cap=config.softcap))
    return b.finish(hidden="hidden", logits="logits", slots=len(slot_specs(config)))


def slot_specs(config: TargetConfig) -> tuple[SlotSpec, ...]:
    """One cache slot per layer that computes keys and values, in layer order."""
    return tuple(
        SlotSpec(kv_heads=layer.kv_heads, head_dim=layer.head_dim, window=layer.window)
        for layer in config.layers
        if not layer.kv_shared
    )


class TargetModel:
    """A compiled target.

    Args:
        config, store: as loaded from one checkpoint.
        backend: runs the plan.
        max_rows: most rows of one pass (all sequences together).
    """

    def __init__(self, config: TargetConfig, store: WeightStore, backend: Backend, *, max_rows: int) -> None:
        self.config = config
        self.store = store
        self.backend = backend
        self.max_rows = max_rows
        self.slots = slot_specs(config)
        self.kv = backend.new_kv(self.slots, max_rows=max_rows)
        self.plan = target_plan(config, store)
        self.program = backend.compile(self.plan, max_rows=max_rows)

    def new_cache(self, max_context: int | None = None) -> KVStore:
        """An empty cache for one sequence."""
        limit = self.config.max_position_embeddings
        return self.kv.new(min(max_context or limit, limit))

    def forward(self, batch: Batch, taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """One pass; see `geminate.backends.base.Program.run`. Makes room in the caches and writes KV rows.

        The caches' lengths stay: `extend` advances them, and a caller that repeats a pass does not want that.
        """
        for cache, count in zip(batch.caches, batch.counts, strict=True):
            cache.reserve(count)
        return self.program.run(batch, taps=taps)

    def extend(self, parts: Sequence[Rows], taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """One pass over new rows of one or more sequences, which their caches then hold.

        Returns:
            hidden float32 [rows of all parts, hidden], post-norm, and logits float32 [wanted rows, vocab].
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
