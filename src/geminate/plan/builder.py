"""Collects a model's operations into a `Plan`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from geminate.arrays import F32, I32
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.plan.nodes import (
    Linear,
    Node,
    Plan,
    RmsNorm,
    RopeTable,
)


class Weights(Protocol):
    """What a plan is built from: packed weights by canonical name."""

    def matrix(self, name: str) -> PackedMatrix: ...
    def vector(self, name: str) -> F32: ...
    def scalar(self, name: str) -> float: ...
    def embedding(self) -> PackedMatrix | RowTable: ...
    def head(self) -> PackedMatrix: ...
    def row_table(self, name: str) -> RowTable: ...
    def order(self, name: str) -> I32: ...


class PlanBuilder:
    """Collects nodes and buffer widths.

    Args:
        store: weights under canonical names.
        hidden_size: width of the residual stream.
        eps: of every RMSNorm.
        ropes: rotary table per layer kind.
    """

    def __init__(self, store: Weights, *, hidden_size: int, eps: float, ropes: dict[str, RopeTable]) -> None:
        self.store = store
        self.hidden_size = hidden_size
        self.eps = eps
        self.rope_index = {kind: i for i, kind in enumerate(ropes)}
        self.ropes = tuple(ropes.values())
        self.nodes: list[Node] = []
        self.widths: dict[str, int] = {}

    def buffer(self, name: str, width: int) -> str:
        """Declare a buffer, or check that it was declared alike."""
        if self.widths.setdefault(name, width) != width:
            raise ValueError(f"buffer {name} is {self.widths[name]} wide, not {width}")
        return name

    def add(self, *nodes: Node) -> None:
        """Append operations."""
        self.nodes.extend(nodes)

    def linear(self, x: str, out: str, weight: str, scale: float = 1.0, rows: range | None = None) -> str:
        """out = x W^T * scale, with W looked up by name, or with these consecutive rows of it; declares ``out``."""
        w: PackedMatrix = self.store.matrix(weight)
        rows = range(w.n) if rows is None else rows
        self.add(Linear(x=x, out=self.buffer(out, len(rows)), w=w, scale=scale, first=rows.start))
        return out

    def norm(self, x: str, out: str, weight: str | None, groups: int = 1, scale: float = 1.0) -> str:
        """RMSNorm with a weight looked up by name and multiplied by ``scale``, or with none; declares ``out``."""
        vector = None if weight is None else self.store.vector(weight) * np.float32(scale)
        self.buffer(out, self.widths[x])
        self.add(RmsNorm(x=x, out=out, weight=vector, eps=self.eps, groups=groups))
        return out

    def finish(
        self,
        *,
        hidden: str,
        logits: str,
        slots: int,
        candidate_ids: str | None = None,
    ) -> Plan:
        """The plan of everything added so far."""
        return Plan(
            widths=dict(self.widths),
            nodes=tuple(self.nodes),
            ropes=self.ropes,
            hidden=hidden,
            logits=logits,
            candidate_ids=candidate_ids,
            slots=slots,
        )
