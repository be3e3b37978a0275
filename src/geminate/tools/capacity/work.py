"""The work of a pass, read off the engine's own plan: weight bytes, multiply-accumulates, attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from geminate.arrays import F32, I32
from geminate.backends import select
from geminate.checkpoint.entries import Entry
from geminate.families.registry import family_of
from geminate.formats.matrix import PackedMatrix, RowTable
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.plan.costs import AttentionCosts
from geminate.plan.nodes import CentroidHead, Experts, GatherRows, Linear, Node, Plan
from geminate.tools.bench.random_weights import MATRIX_ROLES, plane_shapes
from geminate.weights.presets import Preset, tensor_format
from geminate.weights.specs import expected_tensors

ALIKE = 0.78  # rows of a text choose their experts alike: fits benchmarks/step-26b-a4b-int4.json within 10 %


class ShapeStore:
    """Stands in for a `WeightStore` where only shapes count: its arrays take no memory.

    Args:
        preset: see `presets.tensor_format`. entries: how the tensors are stored; None: in no file.
    """

    def __init__(
        self, config: TargetConfig | AssistantConfig, preset: Preset, entries: Mapping[str, Entry] | None = None
    ) -> None:
        self._specs = {spec.name: spec for spec in expected_tensors(config)}
        self._config, self._preset, self._entries = config, preset, entries or {}

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices, scales included."""
        return sum(self.matrix(name).nbytes for name, spec in self._specs.items() if spec.role in MATRIX_ROLES)

    def matrix(self, name: str) -> PackedMatrix:
        """A matrix, or a stack of them, of zeros."""
        spec = self._specs[name]
        fmt = tensor_format(spec, self._entries.get(name), self._preset, self._config)
        planes = {
            plane: np.broadcast_to(np.zeros(1, dtype), shape)
            for plane, (dtype, shape) in plane_shapes(spec, fmt).items()
        }
        return PackedMatrix(
            format=fmt,
            n=spec.matrix_shape[0],
            k=spec.matrix_shape[1],
            planes=planes,
            layout=select.layout(fmt),
            stack=spec.stack,
        )

    def embedding(self) -> PackedMatrix:
        """The tied table."""
        return self.matrix("embed_tokens")

    def head(self) -> PackedMatrix:
        """The matrix that makes logits."""
        return self.matrix("lm_head" if "lm_head" in self._specs else "embed_tokens")

    def row_table(self, name: str) -> RowTable:
        """A table of zeros."""
        rows, width = self._specs[name].shape
        planes = {"codes": np.broadcast_to(np.zeros(1, np.int8), (rows, width))}
        return RowTable(format="int8", rows=rows, width=width, planes=planes)

    def vector(self, name: str) -> F32:
        """Ones."""
        return np.ones(self._specs[name].shape, dtype=np.float32)

    def scalar(self, name: str) -> float:
        """One."""
        return 1.0

    def order(self, name: str) -> I32:
        """The identity."""
        return cast(I32, np.arange(self._specs[name].shape[0], dtype=np.int32))


@dataclass(frozen=True, kw_only=True)
class ExpertWork:
    """One layer's experts: how many, how many a row takes, bytes and multiply-accumulates of one."""

    count: int
    top_k: int
    bytes: int
    macs: int

    def read(self, rows: int) -> float:
        """Bytes that ``rows`` rows read: the union of their experts, as if ``rows`` ** `ALIKE` chose at random."""
        missed: float = (1.0 - self.top_k / self.count) ** (rows**ALIKE)
        return self.bytes * self.count * (1.0 - missed)


@dataclass(frozen=True, kw_only=True)
class RowWork:
    """What some operations of a plan cost.

    Attributes:
        nodes: operations, at whose end threads meet.
        bytes: of weights that any number of rows reads once. macs: multiply-accumulates of a row, experts included.
        float_macs: those of ``macs`` that are float32, of bf16 matrices; 0 where these are a small part, whose time the
            measured shares of the peak hold. attention: by position.
    """

    nodes: int
    bytes: int
    macs: int
    float_macs: int
    experts: tuple[ExpertWork, ...]
    attention: AttentionCosts

    def read(self, rows: int) -> float:
        """Weight bytes that a pass over so many rows reads."""
        return self.bytes + sum(expert.read(rows) for expert in self.experts)


@dataclass(frozen=True, kw_only=True)
class ModelWork:
    """The work of a target and its drafter.

    Attributes:
        body: of every row of a pass, up to the last keys and values. tail: of rows whose logits are wanted, on top.
        whole: both. draft: of one draft step; None without a drafter.
        weight_bytes: matrices of both models, which have to be in memory.
    """

    body: RowWork
    tail: RowWork
    whole: RowWork
    draft: RowWork | None
    weight_bytes: int


def model_work(
    config: TargetConfig,
    assistant: AssistantConfig | None,
    preset: Preset,
    entries: Mapping[str, Entry] | None = None,
) -> ModelWork:
    """The work of a pair by its configurations.

    Args:
        entries: how the target's tensors are stored; None: in no file.
    """
    store = ShapeStore(config, preset, entries)
    plan = family_of(config.model_type).plan(config, store)
    draft = None
    if assistant is not None:
        family = family_of(assistant.model_type)
        assert family.drafter is not None  # `load_assistant_config` found it there
        draft = _row_work(family.drafter.plan(assistant, ShapeStore(assistant, preset), config, store))
    stored = store.nbytes + (0 if assistant is None else ShapeStore(assistant, preset).nbytes)
    return plan_work(plan, draft, stored)


def plan_work(plan: Plan, draft: RowWork | None, weight_bytes: int) -> ModelWork:
    """The work of a plan, cut where it gathers the wanted rows."""
    gather = next((i for i, node in enumerate(plan.nodes) if isinstance(node, GatherRows)), len(plan.nodes))
    return ModelWork(
        body=_row_work(replace(plan, nodes=plan.nodes[:gather])),
        tail=_row_work(replace(plan, nodes=plan.nodes[gather:])),
        whole=_row_work(plan),
        draft=draft,
        weight_bytes=weight_bytes,
    )


def _row_work(plan: Plan) -> RowWork:
    read, macs = 0, 0
    for node in plan.nodes:
        more_bytes, more_macs = _dense(node, plan.widths)
        read, macs = read + more_bytes, macs + more_macs
    floats = sum(_dense(n, plan.widths)[1] for n in plan.nodes if isinstance(n, Linear) and n.w.format == "bf16")
    experts = tuple(_experts(node) for node in plan.nodes if isinstance(node, Experts))
    macs += sum(expert.top_k * expert.macs for expert in experts)
    return RowWork(
        nodes=len(plan.nodes),
        bytes=read,
        macs=macs,
        float_macs=floats if 2 * floats > macs else 0,
        experts=experts,
        attention=AttentionCosts(plan),
    )


def _dense(node: Node, widths: Mapping[str, int]) -> tuple[int, int]:
    """Weight bytes and multiply-accumulates of a product."""
    if isinstance(node, Linear):
        rows = widths[node.out]
        return node.w.nbytes * rows // node.w.n, rows * node.w.k
    if isinstance(node, CentroidHead):
        rows, table = widths[node.out], node.table
        centroids = node.centroids
        read = centroids.nbytes + table.nbytes * rows // (table.n * table.stack)
        return read, centroids.n * centroids.k + rows * table.k
    return 0, 0


def _experts(node: Experts) -> ExpertWork:
    up, down = node.gate_up, node.down
    return ExpertWork(
        count=up.stack,
        top_k=node.top_k,
        bytes=(up.nbytes + down.nbytes) // up.stack,
        macs=up.n * up.k + down.n * down.k,
    )
