"""Plans of a few products over the rows of an embedding."""

from __future__ import annotations

import numpy as np

from geminate.backends.base import Backend
from geminate.formats.matrix import PackedMatrix
from geminate.kv.store import SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch, Rows
from support.packed import pack_matrix

VOCAB = 40


def plan(width: int, outputs: list[tuple[PackedMatrix, float]], embedding: np.ndarray) -> p.Plan:
    """Rows of ``embedding`` times each matrix, side by side as logits."""
    nodes: list[p.Node] = [p.Embed(out="x", table=pack_matrix(embedding, "bf16"), scale=1.0)]
    widths, joined = {"x": width}, ""
    for i, (w, scale) in enumerate(outputs):
        widths[f"y{i}"] = w.n
        nodes.append(p.Linear(x="x", out=f"y{i}", w=w, scale=scale))
    for i in range(len(outputs)):
        if not joined:
            joined = f"y{i}"
            continue
        widths[f"{joined}_{i}"] = widths[joined] + widths[f"y{i}"]
        nodes.append(p.Concat(a=joined, b=f"y{i}", out=f"{joined}_{i}"))
        joined = f"{joined}_{i}"
    nodes.append(p.GatherRows(x=joined))
    for out in ("hidden", "logits"):
        widths[out] = widths[joined]
        nodes.append(p.AddScaled(a=joined, b=joined, out=out, scale=0.5))
    return p.Plan(widths=widths, nodes=tuple(nodes), ropes=(), hidden="hidden", logits="logits", slots=1)


def logits(backend: Backend, made: p.Plan, ids: list[int]) -> np.ndarray:
    """What a plan makes of ids, one sequence from an empty cache: float32 [ids, width]."""
    cache = backend.new_kv((SlotSpec(kv_heads=1, head_dim=16, window=0),), max_rows=64).new(64)
    cache.reserve(len(ids))
    batch = Batch.of([Rows(cache=cache, ids=np.array(ids, np.int32), wanted=len(ids))])
    return backend.compile(made, max_rows=64).run(batch)[1]


def embedding(width: int, spread: float = 1.0) -> np.ndarray:
    """Rows of normal values, one that exceeds every range, one of zeros."""
    g = np.random.default_rng(5)
    rows = (g.standard_normal((VOCAB, width)) * spread).astype(np.float32)
    rows[1] = np.where(np.arange(width) % 3 == 0, -1000, 1000)
    rows[2] = 0
    return rows
