"""The reference backend: NumPy float32, plain as a textbook, one row at a time.

It is the oracle of the native kernels and the fallback where they are not built. A row is computed alone, so
the numeric contract holds by construction. Quantized weights see quantized activations, as in the kernels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from geminate.arrays import F32, I8, I32, I64
from geminate.backends.kv_rings import RingFactory, rings
from geminate.backends.reference.attention import attention, softmax
from geminate.backends.reference.blocks import block_product
from geminate.backends.tiles import LAYOUTS, TileLayout
from geminate.decoding.draft_rule import DraftRule, DraftStop, choose_draft_token, confidence_bin
from geminate.decoding.sampler import ReferenceSampler
from geminate.formats.blocks import GROUP
from geminate.formats.matrix import PackedMatrix
from geminate.formats.table import FORMATS, Codes, WeightFormat
from geminate.kv.store import KVDtype, KVFactory, KVStore, SlotSpec
from geminate.plan import nodes as p
from geminate.plan.batch import Batch

Row: TypeAlias = dict[str, F32]


def quantize_activation(x: F32) -> F32:
    """What the int8 kernels see of x: per group of 32, q = rint(x * 127/amax), back to q * (amax/127)."""
    padded = np.zeros(-(-len(x) // GROUP) * GROUP, dtype=np.float32)
    padded[: len(x)] = x
    groups = padded.reshape(-1, GROUP)
    amax = np.abs(groups).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    codes = np.rint(groups * inverse)
    seen: F32 = (codes * (amax / np.float32(127))).reshape(-1)[: len(x)]
    return seen


def rounded(x: F32, scale: np.float32) -> F32:
    """Codes int8(x / scale) as float32, halves to even; NaN is -128."""
    clamped = np.clip(np.where(np.isnan(x), np.float32(-128), x / scale), np.float32(-128), np.float32(127))
    codes: F32 = np.rint(clamped)
    return codes


def halves(x: F32) -> tuple[F32, F32, np.float32]:
    """Codes of 16 bits as 256 * high + low, both int8 values in float32, and their scale."""
    most, amax = np.float32(32512), np.float32(np.abs(x).max())
    if amax < np.float32(1e-30):
        return np.zeros_like(x), np.zeros_like(x), np.float32(0)
    codes = np.rint(np.clip(x * (most / amax), -most, most))
    high: F32 = np.rint(codes * np.float32(1 / 256) + np.float32(1 / 1024))
    return high, codes - np.float32(256) * high, amax / most


def row_scaled_product(x: F32, codes: I8, scales: F32, w: PackedMatrix) -> F32:
    """x [k] times rows of a row format: codes [n, k], scales [n]. Exact integer sums, one multiplication at the end."""
    scale = np.float32(w.input_scale)
    if scale > 0:
        y = (codes.astype(np.int32) @ rounded(x, scale).astype(np.int32)).astype(np.float32) * (scales * scale)
    else:
        high, low, scale = halves(x)
        sums = [(codes.astype(np.int32) @ part.astype(np.int32)).astype(np.float32) for part in (high, low)]
        fused = (sums[0].astype(np.float64) * 256 + sums[1]).astype(np.float32)  # exact before the one rounding
        y = fused * (scales * scale)
    if w.output_scale > 0:
        y = rounded(y, np.float32(w.output_scale)) * np.float32(w.output_scale)
    out: F32 = y
    return out


def gelu_tanh(x: F32) -> F32:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the tanh form of Hendrycks and Gimpel, 2016."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return (np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))).astype(np.float32)


class ReferenceBackend:
    """Compiles plans into row-at-a-time NumPy programs."""

    name = "reference"
    isa = "numpy"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or 1

    @property
    def sampler(self) -> ReferenceSampler:
        """See `geminate.backends.base.Backend.sampler`."""
        return ReferenceSampler()

    def new_kv(self, slots: tuple[SlotSpec, ...], *, max_rows: int, dtype: KVDtype = "float16") -> KVFactory:
        """See `geminate.backends.base.Backend.new_kv`."""
        return RingFactory(slots, max_rows=max_rows, dtype=dtype)

    def layout(self, fmt: WeightFormat) -> TileLayout:
        """See `geminate.backends.base.Backend.layout`; the native kernels', so that both read one packed file."""
        return LAYOUTS[fmt]

    def compile(self, plan: p.Plan, *, max_rows: int) -> ReferenceProgram:
        """A program for ``plan``; ``max_rows`` bounds a pass as in the native backend."""
        return ReferenceProgram(plan, max_rows=max_rows)


class ReferenceProgram:
    """See `geminate.backends.base.Program`. Dequantized weights are kept, so this suits small models."""

    def __init__(self, plan: p.Plan, *, max_rows: int) -> None:
        self.plan = plan
        self.max_rows = max_rows
        self._wide: dict[tuple[int, int], F32] = {}
        self._codes: dict[int, tuple[I8, F32]] = {}
        self._blocks: dict[tuple[int, int], Codes] = {}

    def _weights(self, w: PackedMatrix, which: int = 0) -> F32:
        key = (id(w), which)  # the plan keeps w alive
        if key not in self._wide:
            self._wide[key] = w.dequantized(which)
        return self._wide[key]

    def _linear(self, x: F32, w: PackedMatrix, which: int = 0, rows: slice = slice(None)) -> F32:
        kind = FORMATS[w.format].activations
        if kind == "rows":
            values, scales = self._row_codes(w)
            return row_scaled_product(x, values[rows], scales[rows], w)
        blocks = FORMATS[w.format].blocks
        if blocks is not None:
            codes = self._block_codes(w, which)
            assert codes.scales is not None
            return block_product(x, Codes(values=codes.values[rows], scales=codes.scales[rows]), blocks)
        seen = quantize_activation(x) if kind == "groups" else x
        out: F32 = self._weights(w, which)[rows] @ np.ascontiguousarray(seen)
        return out

    def _block_codes(self, w: PackedMatrix, which: int) -> Codes:
        """Codes and records of matrix ``which`` of a stack in a block format."""
        key = (id(w), which)
        if key not in self._blocks:
            planes = {name: plane.reshape(w.stack, -1)[which] for name, plane in w.planes.items()}
            self._blocks[key] = w.layout.unpack(planes, w.n, w.k)
        return self._blocks[key]

    def _row_codes(self, w: PackedMatrix) -> tuple[I8, F32]:
        """Codes [n, k] and scales [n] of a matrix in a row format."""
        if id(w) not in self._codes:
            codes = w.layout.unpack(w.planes, w.n, w.k)
            assert codes.scales is not None
            self._codes[id(w)] = codes.values.view(np.int8), codes.scales.view(np.float32)[:, 0]
        return self._codes[id(w)]

    def run(self, batch: Batch, *, taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """See `geminate.backends.base.Program.run`."""
        if taps is not None:
            batch.check_taps()
        rows: list[Row] = [{} for _ in batch.ids]
        active = list(range(len(rows)))
        given = batch.embeddings or {}
        for node in self.plan.nodes:
            if isinstance(node, p.GatherRows):
                active = [int(r) for r in batch.wanted]
                continue
            if isinstance(node, p.Tap):
                if taps is not None:
                    taps[node.name] = np.stack([rows[r][node.x] for r in active])
                continue
            for r in active:
                if isinstance(node, p.Embed) and r in given:
                    rows[r][node.out] = given[r].astype(np.float32)
                    continue
                position = int(batch.positions[r])
                cache = batch.caches[int(batch.sequences[r])]
                self._apply(node, rows[r], int(batch.ids[r]), position, position, cache)
        return self._wanted(rows, batch, self.plan.hidden), self._wanted(rows, batch, self.plan.logits)

    def _wanted(self, rows: list[Row], batch: Batch, buffer: str) -> F32:
        out = np.empty((len(batch.wanted), self.plan.widths[buffer]), dtype=np.float32)
        for i, r in enumerate(batch.wanted):
            out[i] = rows[int(r)][buffer]
        return out

    expert_reads = 0  # not counted

    def draft_step(
        self, token: int, hidden: F32, position: int, rope_position: int, cache: KVStore
    ) -> tuple[I32, F32, F32]:
        """See `geminate.backends.base.Program.draft_step`."""
        row: Row = {"hidden_in": np.asarray(hidden, dtype=np.float32)}
        for node in self.plan.nodes:
            if not isinstance(node, p.GatherRows | p.Tap):
                self._apply(node, row, token, position, rope_position, cache)
        logits = row[self.plan.logits]
        if self.plan.candidate_ids is None:
            candidates = np.arange(len(logits), dtype=np.int32)
        else:
            candidates = row[self.plan.candidate_ids].astype(np.int32)
        return candidates, logits, row[self.plan.hidden]

    def draft(
        self,
        token: int,
        hidden: F32,
        position: int,
        rope_position: int,
        cache: KVStore,
        k: int,
        rule: DraftRule,
        stop: DraftStop | None = None,
    ) -> tuple[I32, F32]:
        """See `geminate.backends.base.Program.draft`."""
        survival = np.float32(1.0)
        ids = np.empty(k, dtype=np.int32)
        confidence = np.empty(k, dtype=np.float32)
        for j in range(k):
            candidates, logits, hidden = self.draft_step(token, hidden, position, rope_position, cache)
            best = choose_draft_token(candidates, logits, rule, position + 1 + j)
            token = int(candidates[best])
            ids[j] = token
            confidence[j] = softmax(logits)[best]
            if stop is not None and j + 1 < k:
                survival *= stop.calibration[confidence_bin(float(confidence[j]))]
                if survival * stop.ahead[j + 1] < stop.need[j + 1]:
                    return ids[: j + 1], confidence[: j + 1]
        return ids, confidence

    def _apply(self, node: p.Node, row: Row, token: int, position: int, rope_position: int, cache: KVStore) -> None:
        match node:
            case p.Embed():
                wide = node.table.dequantized_rows(np.array([token], dtype=np.int32))[0]
                row[node.out] = wide * np.float32(node.scale)
            case p.RowLookup():
                wide = node.table.dequantized_rows(np.array([token], dtype=np.int32))[0]
                columns = slice(node.column, node.column + self.plan.widths[node.out])
                row[node.out] = wide[columns] * np.float32(node.scale)
            case p.Concat():
                row[node.out] = np.concatenate([row[node.a], row[node.b]])
            case p.RmsNorm():
                x = row[node.x].reshape(node.groups, -1)
                mean = np.mean(x * x, axis=1, keepdims=True, dtype=np.float32)
                normed = x * (np.float32(1) / np.sqrt(mean + np.float32(node.eps)))
                if node.weight is not None:
                    normed = normed * node.weight
                row[node.out] = normed.reshape(-1).astype(np.float32)
            case p.Linear():
                rows = slice(node.first, node.first + self.plan.widths[node.out])
                row[node.out] = self._linear(row[node.x], node.w, rows=rows) * np.float32(node.scale)
            case p.AddScaled():
                row[node.out] = (row[node.a] + row[node.b]) * np.float32(node.scale)
            case p.GeluMul():
                gate = row[node.gate]
                up = row[node.up][node.up_offset : node.up_offset + len(gate)]
                row[node.out] = gelu_tanh(gate) * up
            case p.Rope():
                row[node.x] = self._rotated(row[node.x], node, rope_position)
            case p.KvStore():
                heads = len(rings(cache).planes[node.slot].arrays[0])
                rings(cache).write(node.slot, position, row[node.k].reshape(heads, -1), row[node.v].reshape(heads, -1))
            case p.Attention():
                row[node.out] = attention(row[node.q], node, position, cache)
            case p.Experts():
                row[node.out] = self._experts(row[node.x], row[node.scores], node)
            case p.Softcap():
                row[node.x] = np.tanh(row[node.x] / np.float32(node.cap)) * np.float32(node.cap)
            case p.CentroidHead():
                scores = self._linear(row[node.x], node.centroids)
                chosen = np.argsort(-scores, kind="stable")[: node.top_k]
                candidates = node.ordering.reshape(len(scores), -1)[chosen].reshape(-1)
                row[node.out] = np.concatenate([self._linear(row[node.x], node.table, int(c)) for c in chosen])
                row[node.ids] = candidates.astype(np.float32)
            case _:
                raise TypeError(f"no reference for {type(node).__name__}")

    def _rotated(self, x: F32, node: p.Rope, rope_position: int) -> F32:
        table = self.plan.ropes[node.rope]
        cosines, sines = table.rows(rope_position + 1)
        cos, sin = cosines[rope_position], sines[rope_position]
        heads = x.reshape(node.groups, -1).copy()
        half = heads.shape[1] // 2
        low, high = heads[:, : table.pairs].copy(), heads[:, half : half + table.pairs].copy()
        heads[:, : table.pairs] = low * cos - high * sin
        heads[:, half : half + table.pairs] = high * cos + low * sin
        return heads.reshape(-1)

    def _experts(self, x: F32, scores: F32, node: p.Experts) -> F32:
        probabilities = softmax(scores)
        chosen: I64 = np.argsort(-probabilities, kind="stable")[: node.top_k]
        weights = probabilities[chosen] / probabilities[chosen].sum()
        weights = weights * node.per_expert_scale[chosen]
        out = np.zeros(node.down.n, dtype=np.float32)
        for at in np.argsort(chosen):
            expert = int(chosen[at])
            gate, up = np.split(self._linear(x, node.gate_up, expert), 2)
            out = out + weights[at] * self._linear(gelu_tanh(gate) * up, node.down, expert)
        return out
