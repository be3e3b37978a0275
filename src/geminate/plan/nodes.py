"""A model as a straight-line list of operations over named row buffers.

The model code (``geminate.families``) builds a `Plan` once; a backend compiles it and runs it for any
number of rows. Every buffer is float32 [rows, width]. Every operation computes output row i from
input row i (and the KV cache of that row's sequence) alone: this is the numeric contract, and it is why
a row has the same bits whatever else is in the batch.

Rows carry (token id, position, sequence). `GatherRows` switches from all rows to the rows whose
logits are wanted; operations after it see only those. A model's plan does so behind the last operation that
writes keys and values: nobody reads what other rows would compute from there on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from geminate.arrays import F32, I32, is_permutation
from geminate.elementary import cos_sin
from geminate.errors import WeightsError
from geminate.formats.matrix import PackedMatrix, RowTable


class RopeTable:
    """Cosines and sines of rotary positions, computed on demand and kept.

    Args:
        inv_freq: float32 [pairs], the frequencies of the rotated pairs (i, i + dim/2), i < pairs;
            pairs at or past ``len(inv_freq)`` do not rotate.
        dim: head dimension.
    """

    BLOCK = 1024

    def __init__(self, inv_freq: F32, dim: int) -> None:
        self.inv_freq = np.ascontiguousarray(inv_freq, dtype=np.float32)
        self.dim = dim
        self.pairs = len(inv_freq)
        none: F32 = np.empty((0, self.pairs), dtype=np.float32)
        self._rows = none, none
        self._growing = threading.Lock()

    def rows(self, positions: int) -> tuple[F32, F32]:
        """Cosines and sines of rows 0..positions-1 and perhaps more, each float32 [rows, pairs]; from any thread.

        Whole blocks are computed, so a row's bits never depend on the call.
        """
        if positions > len(self._rows[0]):
            with self._growing:
                self._grow(positions)
        return self._rows

    def _grow(self, positions: int) -> None:
        cos, sin = self._rows
        have = len(cos)
        if positions <= have:
            return
        want = max(-(-positions // self.BLOCK) * self.BLOCK, 2 * have)
        at = np.arange(have, want, dtype=np.float32)
        # The product is float32 as in transformers; the functions are then taken in float64 and rounded once.
        c, s = cos_sin((at[:, None] * self.inv_freq[None, :]).astype(np.float64))
        self._rows = np.concatenate([cos, c.astype(np.float32)]), np.concatenate([sin, s.astype(np.float32)])


@dataclass(frozen=True, kw_only=True)
class Embed:
    """out = table[id] * scale. Reads the ids of the rows."""

    out: str
    table: PackedMatrix | RowTable
    scale: float


@dataclass(frozen=True, kw_only=True)
class RowLookup:
    """out = table[id][column : column + width(out)] * scale from a row-major table."""

    out: str
    table: RowTable
    scale: float
    column: int = 0


@dataclass(frozen=True, kw_only=True)
class Concat:
    """out = [a, b] along the width."""

    a: str
    b: str
    out: str


@dataclass(frozen=True, kw_only=True)
class RmsNorm:
    """out = x / sqrt(mean(x^2) + eps) * weight within each of ``groups`` equal parts of the row.

    ``weight`` is float32 [width / groups] or None. ``out`` may equal ``x``.
    """

    x: str
    out: str
    weight: F32 | None
    eps: float
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Linear:
    """out = (x @ W[first : first + width(out)].T) * scale; a row format rounds x, and the product before ``scale``."""

    x: str
    out: str
    w: PackedMatrix
    scale: float = 1.0
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class AddScaled:
    """out = (a + b) * scale; ``out`` may equal ``a`` or ``b``."""

    a: str
    b: str
    out: str
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GeluMul:
    """out = gelu_tanh(gate) * up[:, up_offset : up_offset + width(gate)]; ``out`` may equal ``gate``."""

    gate: str
    up: str
    out: str
    up_offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotate each of ``groups`` heads of ``x`` in place by ``plan.ropes[rope]`` at the row's rope position.

    For i < pairs, with h = dim/2: (x[i], x[i+h]) -> (x[i] c - x[i+h] s, x[i+h] c + x[i] s).
    """

    x: str
    groups: int
    rope: int


@dataclass(frozen=True, kw_only=True)
class KvStore:
    """Write k and v of each row, rounded to float16, into cache slot ``slot`` at the row's position."""

    k: str
    v: str
    slot: int


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention, scale 1, of each row's query heads over its sequence's cache slot.

    Keys of the row at position p: max(0, p - window + 1) .. p (window 0: from 0), up to p - 1 where
    ``include_self`` is false (the drafter). Query head h reads KV head h // (heads / kv_heads).
    """

    q: str
    out: str
    slot: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    include_self: bool = True


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Top-k mixture of gated experts, summed in the order of the expert index.

    Probabilities = softmax(scores); the top_k largest (ties: lower index) are divided by their sum and
    multiplied by per_expert_scale; out = sum_e weight_e * down_e(gelu_tanh(gate_e(x)) * up_e(x)).
    ``gate_up`` is a stack of [2 * width, hidden] (gate rows first), ``down`` of [hidden, width].
    """

    x: str
    scores: str
    out: str
    gate_up: PackedMatrix
    down: PackedMatrix
    top_k: int
    per_expert_scale: F32


@dataclass(frozen=True, kw_only=True)
class Softcap:
    """x = tanh(x / cap) * cap, in place."""

    x: str
    cap: float


@dataclass(frozen=True, kw_only=True)
class GatherRows:
    """The wanted rows of x, in place; later operations run on those rows only, and on no buffer not gathered so."""

    x: str


@dataclass(frozen=True, kw_only=True)
class CentroidHead:
    """The drafter's two-stage head; transformers' Gemma4AssistantMaskedEmbedder, candidates only.

    scores = centroids(x); the top_k clusters (ties: lower index, clusters in descending score) give
    top_k * (vocab / num_centroids) candidate ids ordering[cluster]; logits are x . table[id].
    Candidates go to buffers ``ids`` (int32 values) and ``out`` (float32 logits) of that width. The table is a stack of
    one matrix for each cluster, its rows in the order of ``ordering``.

    Raises:
        WeightsError: ``ordering`` is not a permutation of the table's rows, which backends take as addresses.
    """

    x: str
    out: str
    ids: str
    centroids: PackedMatrix
    table: PackedMatrix
    ordering: I32
    top_k: int

    def __post_init__(self) -> None:
        vocab = self.table.n * self.table.stack
        if not is_permutation(self.ordering, vocab):
            raise WeightsError(
                f"the drafter's token_ordering is not a permutation of its {vocab} token ids; "
                "download the drafter again"
            )


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Nothing, unless the caller asked for tap ``name``: then a copy of ``x`` is returned under it."""

    x: str
    name: str


Node: TypeAlias = (
    Embed
    | RowLookup
    | Concat
    | RmsNorm
    | Linear
    | AddScaled
    | GeluMul
    | Rope
    | KvStore
    | Attention
    | Experts
    | Softcap
    | GatherRows
    | CentroidHead
    | Tap
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A straight-line program.

    Attributes:
        widths: buffer name -> width. Inputs that the caller fills (the drafter's ``hidden_in``) are
            buffers too. ``ids`` of CentroidHead are int32 values in a buffer of 4-byte cells.
        nodes: operations in order.
        ropes: the rotary tables that Rope nodes index.
        hidden: buffer of hidden states, one row per wanted row (the target's post-norm hidden state; the
            drafter's projected next hidden state).
        logits: buffer of logits, one row per wanted row.
        candidate_ids: buffer of candidate token ids beside ``logits``, or None when logits cover the vocabulary.
    """

    widths: dict[str, int]
    nodes: tuple[Node, ...]
    ropes: tuple[RopeTable, ...]
    hidden: str
    logits: str
    candidate_ids: str | None = None
    slots: int = 0

    def with_every_row(self) -> Plan:
        """The same plan with every row in every layer: wanted rows are gathered before the node that makes ``hidden``.

        For measurements and tests; outputs have the same bits.
        """
        nodes = [node for node in self.nodes if not isinstance(node, GatherRows)]
        at, norm = next(
            (i, node) for i, node in enumerate(nodes) if isinstance(node, RmsNorm) and node.out == self.hidden
        )
        return replace(self, nodes=(*nodes[:at], GatherRows(x=norm.x), *nodes[at:]))
