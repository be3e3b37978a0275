"""Which tensors a format costs most: each group alone in that format, everything else in bf16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geminate.arrays import I32
from geminate.backends.base import Backend
from geminate.loading.compile import compile_target
from geminate.plan.config import TargetConfig
from geminate.tools.evaluate.score import Score, compare
from geminate.weights.presets import CHOSEN_ROLES
from geminate.weights.specs import expected_tensors
from geminate.weights.store import WeightStore

TOGETHER = 8  # variants that share the reference's passes: each keeps buffers and a KV cache
PARTS = {
    "self_attn": "attention",
    "mlp": "mlp",
    "experts": "experts",
    "per_layer_input_gate": "per-layer input",
    "per_layer_projection": "per-layer input",
}


@dataclass(frozen=True, kw_only=True)
class GroupCost:
    """What one group of tensors costs in a format.

    Attributes:
        group: its name. tensors: how many. score: with this group alone in the format.
        bytes_saved: against bf16. bytes_to_int8: more bytes that int8 would take for it.
    """

    group: str
    tensors: int
    score: Score
    bytes_saved: int
    bytes_to_int8: int

    @property
    def kl_per_mb(self) -> float | None:
        """Nats per extra megabyte if the group were kept in int8 instead (whose own cost is small)."""
        return self.score.kl / (self.bytes_to_int8 / 1e6) if self.bytes_to_int8 else None

    def as_dict(self) -> dict[str, Any]:
        """Rounded, for JSON."""
        rate = None if self.kl_per_mb is None else float(f"{self.kl_per_mb:.4g}")
        return {
            "group": self.group, "tensors": self.tensors, "bytes_saved": self.bytes_saved,
            "bytes_to_int8": self.bytes_to_int8, "kl_per_mb": rate, **self.score.as_dict(),
        }  # fmt: skip


def groups(config: TargetConfig) -> dict[str, list[str]]:
    """Canonical names by group: head, per-layer embedding, each layer's parts, and each kind over all layers."""
    found: dict[str, list[str]] = {}
    for spec in expected_tensors(config):
        if spec.role not in (*CHOSEN_ROLES, "row_table"):
            continue
        parts = spec.name.split(".")
        if parts[0] != "layers":
            name = {"embed_tokens": "head and embedding", "embed_tokens_per_layer": "per-layer embedding"}
            found.setdefault(name.get(spec.name, spec.name), []).append(spec.name)
            continue
        found.setdefault(f"layer {parts[1]} {PARTS[parts[2]]}", []).append(spec.name)
    for spec in expected_tensors(config):
        if spec.name.startswith("layers.") and spec.role in CHOSEN_ROLES:
            kind = ".".join(spec.name.split(".")[2:]).removeprefix("self_attn.").removeprefix("mlp.")
            found.setdefault(f"every {kind}", []).append(spec.name)
    return found


def by_group(
    config: TargetConfig,
    stores: dict[str, WeightStore],
    fmt: str,
    backend: Backend,
    windows: Sequence[I32],
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> list[GroupCost]:
    """Score every group of `groups` alone in format ``fmt``.

    Args:
        stores: of ``bf16``, ``int8`` and ``fmt``.
        on_rows: called with (positions done, total positions), over all groups.

    Returns:
        one entry a group, in the model's order.
    """
    reference = compile_target(config, stores["bf16"], backend, max_rows=64)
    every = groups(config)
    names = list(every)
    batches = [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)]
    scores: dict[str, Score] = {}
    for index, batch in enumerate(batches):
        models = {
            name: compile_target(
                config, stores["bf16"].replaced(frozenset(every[name]), stores[fmt]), backend, max_rows=64
            )
            for name in batch
        }

        def report(done: int, total: int, at: int = index) -> None:
            on_rows(at * total + done, len(batches) * total)

        scores |= compare(reference, models, windows, report)[1]
    sizes = {
        name: {f: store.tensor_bytes(name) for f, store in stores.items()} for group in every.values() for name in group
    }

    def size(group: str, of: str) -> int:
        return int(np.sum([sizes[name][of] for name in every[group]]))

    return [
        GroupCost(
            group=name,
            tensors=len(every[name]),
            score=scores[name],
            bytes_saved=size(name, "bf16") - size(name, fmt),
            bytes_to_int8=size(name, "int8") - size(name, fmt),
        )
        for name in names
    ]
