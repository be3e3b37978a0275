"""Which input channels of a matrix matter: the mean square of what enters it on a calibration text.

A matrix's output error is sum over channels of (weight error x input), so an error counts by its channel's mean square
(llama.cpp's imatrix and GPTQ's diagonal are the same statistic). Inputs come from our own kernels, through taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from geminate.arrays import F32, I32
from geminate.backends.base import Backend
from geminate.families.registry import family_of
from geminate.plan.batch import Batch, Rows
from geminate.plan.config import TargetConfig
from geminate.plan.nodes import Experts, Linear, Node, Tap
from geminate.weights.specs import expected_tensors
from geminate.weights.store import WeightStore

ROWS = 32
FLOOR = 1e-3  # of the mean: a channel that this text leaves silent still has to be stored


def channel_importance(
    config: TargetConfig,
    store: WeightStore,
    backend: Backend,
    windows: Sequence[I32],
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, F32]:
    """Mean square of every input channel by canonical name of the matrix, float32 [k], mean 1.

    Experts' first matrices see what the router was shown; their second ones are left out, as inputs there depend on
    the expert.

    Args:
        windows: token ids, int32 [context] each. on_rows: called with (positions done, total positions).
    """
    specs = [s for s in expected_tensors(config) if s.role in ("matrix", "embedding", "experts")]
    plan = family_of(config.model_type).plan(config, store)
    names = {id(store.matrix(spec.name)): spec.name for spec in specs}
    nodes: list[Node] = []
    for node in plan.nodes:
        at = node.w if isinstance(node, Linear) else node.gate_up if isinstance(node, Experts) else None
        if isinstance(node, Linear | Experts) and id(at) in names:
            nodes.append(Tap(x=node.x, name=f"into {names[id(at)]}"))
        nodes.append(node)
    program = backend.compile(replace(plan, nodes=tuple(n for n in nodes if not _own_tap(n))), max_rows=ROWS)
    sums: dict[str, np.ndarray] = {}
    done, total = 0, sum(len(part) for part in windows)
    for part in windows:
        cache = backend.new_kv(config.kv_slots, max_rows=ROWS).new(len(part))
        for start in range(0, len(part), ROWS):
            ids = part[start : start + ROWS]
            cache.reserve(len(ids))
            taps: dict[str, F32] = {}
            program.run(Batch.of([Rows(cache=cache, ids=ids, wanted=len(ids))]), taps=taps)
            cache.advance(len(ids))
            for name, values in taps.items():
                square = (values.astype(np.float64) ** 2).sum(axis=0)
                sums[name] = sums.get(name, 0.0) + square
            done += len(ids)
            on_rows(done, total)
    return {name.removeprefix("into "): _scaled(square) for name, square in sums.items()}


def _own_tap(node: Node) -> bool:
    return isinstance(node, Tap) and not node.name.startswith("into ")


def _scaled(square: np.ndarray) -> F32:
    mean = square.mean()
    if not mean > 0:
        return np.ones(len(square), dtype=np.float32)
    scaled: F32 = np.maximum(square / mean, FLOOR).astype(np.float32)
    return scaled
