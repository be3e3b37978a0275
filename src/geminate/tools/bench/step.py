"""Pass times T(M) of a real shape, beside what the machine could do at most in the same moments.

The ceiling of a pass over M rows is max(bytes read / read bandwidth, M x multiply-accumulates / int8 peak).
Bandwidth and peak are measured in every round, between the passes: the machine has modes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from geminate import __version__, machine
from geminate.backends.base import Program
from geminate.backends.kv_rings import rings
from geminate.backends.select import native_backend
from geminate.decoding.draft_rule import DraftRule
from geminate.errors import ParameterError
from geminate.formats.table import FORMATS
from geminate.kv.store import KVFormat, KVStore
from geminate.loading.compile import compile_drafter, compile_target
from geminate.plan.batch import Batch, Rows
from geminate.plan.config import MoeConfig, TargetConfig
from geminate.plan.costs import AttentionCosts
from geminate.plan.nodes import Experts, GatherRows, Linear, Plan
from geminate.runtime.drafter import DrafterModel
from geminate.runtime.target import TargetModel
from geminate.speculation.costs import PROFILE_ROWS
from geminate.tools.bench.ceilings import Ceilings
from geminate.tools.bench.memory import MAX_ROWS, fitting
from geminate.tools.bench.random_weights import RandomStore, matrix_bytes
from geminate.tools.bench.shapes import load_shape
from geminate.weights.presets import Preset, mobile_scales, tensor_format
from geminate.weights.specs import TensorSpec, expected_tensors
from geminate.weights.store import WeightStore

PREFILL = 512
CHUNK = 256  # as LoadOptions.prefill_chunk
DRAFT = 4


class StepBench:
    """A pair with random weights, and one timing at a time.

    Args:
        shape: a name of `geminate.tools.bench.shapes.SHAPES` or a model directory.
        weights: see `presets.tensor_format`; ``auto`` is int8 here.
        kv: format of keys and values.
        threads: None is what `pick_threads` picks.
        context: positions already in the cache.
        prefill: tokens of the prompt whose processing is timed; None is `PREFILL`, or what the context holds.
        layers: a shorter stack; None takes all, or as many whole blocks as fit into memory.
        all_logits: passes give all logits, as sampling needs, and not only the largest of each row.
        on_message: called with how much memory is needed and how much is free, before any is allocated.
        on_weights: called with (bytes done, bytes) of the target while its weights are made.

    Raises:
        GeminateError: unknown shape, bad layer count, no native kernels, or too little memory.
    """

    def __init__(
        self,
        shape: str,
        weights: Preset,
        *,
        kv: KVFormat = "f16",
        threads: int | None = None,
        context: int = 128,
        prefill: int | None = None,
        layers: int | None = None,
        all_logits: bool = False,
        on_message: Callable[[str], None] = lambda text: None,
        on_weights: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        config, assistant, self.total_layers = load_shape(shape, layers)
        most = config.max_position_embeddings - PROFILE_ROWS
        if not 1 <= context <= most:
            raise ParameterError(f"--context must be 1 to {most}, not {context}")
        if prefill is not None and not 1 <= prefill <= config.max_position_embeddings:
            raise ParameterError(f"--prefill must be 1 to {config.max_position_embeddings}, not {prefill}")
        fit = fitting(shape, weights, context=context, layers=layers)
        on_message(fit.sentence)
        if fit.layers != layers:
            config, assistant, _ = load_shape(shape, fit.layers)
            on_message(f"only {fit.layers} of its {self.total_layers} layers fit")
        self.prefill_tokens = prefill or min(PREFILL, config.max_position_embeddings)
        self.config, self.weights, self.context = config, weights, context
        self.all_logits = all_logits
        self.backend = native_backend(threads)
        store = _store(RandomStore(config, weights, on_weights))
        self.target = compile_target(config, store, self.backend, max_rows=MAX_ROWS, kv=kv)
        self.every_row = self.backend.compile(self.target.plan.with_every_row(), max_rows=MAX_ROWS)
        self.drafter: DrafterModel | None = None
        if assistant is not None:
            self.drafter = compile_drafter(assistant, _store(RandomStore(assistant, weights)), self.target)
        self.ceilings = Ceilings(self.backend)
        self._cache = filled_cache(self.target, context)
        self._hidden = np.ones(config.hidden_size, dtype=np.float32)
        self._ids = np.random.default_rng(1).integers(0, config.vocab_size, 4096).astype(np.int32)

    def step(self, rows: int) -> float:
        """Seconds of a pass over ``rows`` new rows behind the context, every row wanted."""
        ids = self._ids[:rows]
        batch = Batch.of([Rows(cache=self._cache, ids=ids, wanted=rows, largest=not self.all_logits)])
        began = time.perf_counter()
        hidden, _ = self.target.forward(batch)
        took = time.perf_counter() - began
        self._hidden = hidden[-1]
        return took

    def draft_step(self) -> float:
        """Seconds of one draft step, of `DRAFT` in a round; 0 where the shape has no drafter."""
        if self.drafter is None:
            return 0.0
        began = time.perf_counter()
        self.drafter.draft(int(self._ids[7]), self._hidden, self._cache, DRAFT, DraftRule())
        return (time.perf_counter() - began) / DRAFT

    def prefill(self, tokens: int | None = None, program: Program | None = None) -> float:
        """Seconds of processing a prompt from an empty cache, in chunks as the engine does, logits of the last row.

        Args:
            tokens: None is ``prefill_tokens``.
            program: the target's, or `every_row`: every row through every layer.
        """
        program = program or self.target.program
        cache, tokens = self.target.new_cache(), tokens or self.prefill_tokens
        ids = np.resize(self._ids, tokens)
        began = time.perf_counter()
        for start in range(0, tokens, CHUNK):
            part = ids[start : start + CHUNK]
            cache.reserve(len(part))
            wanted = int(start + CHUNK >= tokens)
            program.run(Batch.of([Rows(cache=cache, ids=part, wanted=wanted, largest=not self.all_logits)]))
            cache.advance(len(part))
        return time.perf_counter() - began

    @property
    def experts_read(self) -> int:
        """Experts that the last pass read, over all layers."""
        return self.target.program.expert_reads


def _store(random: RandomStore) -> WeightStore:
    return cast(WeightStore, random)


def filled_cache(target: TargetModel, context: int) -> KVStore:
    """A cache with ``context`` positions of noise, every page touched."""
    cache = target.new_cache()
    while cache.length < context:
        rows = min(MAX_ROWS, context - cache.length)
        cache.reserve(rows)
        cache.advance(rows)
    fill_with_noise(cache)
    return cache


def fill_with_noise(store: KVStore) -> None:
    """Keys, values and scales of every row of a cache."""
    noise = np.random.default_rng(2).standard_normal(1 << 16)
    for array in rings(store).arrays:
        if array.dtype == np.float32:  # scales
            array[:] = 1 / 32
        elif array.dtype == np.float16:
            array[:] = np.resize(noise.astype(np.float16), array.shape)
        else:
            codes = np.clip(noise * 32, -127, 127).astype(np.int8)
            array[:] = np.resize(codes, array.shape).astype(array.dtype)  # keys wrap around, noise all the same


class Work:
    """Bytes and multiply-accumulates of a pass."""

    def __init__(self, config: TargetConfig, weights: Preset, *, all_logits: bool) -> None:
        specs = expected_tensors(config)
        self._all_logits = all_logits
        self.weights, self.config = weights, config
        self.moe: MoeConfig | None = config.moe
        self._experts = [s for s in specs if s.role == "experts"]
        self._head = next(s for s in specs if s.role == "embedding")
        self._dense = [s for s in specs if s.role in ("matrix", "keep")]

    def _expert_share(self, spec: TensorSpec) -> float:
        return 0.0 if self.moe is None else 1 / self.moe.num_experts

    def bytes(self, experts_read: int, layers: int) -> int:
        """Weight bytes read, ``experts_read`` experts over ``layers`` layers among them."""
        dense = sum(matrix_bytes(s, self.weights, self.config) for s in [*self._dense, self._head])
        one = sum(matrix_bytes(s, self.weights, self.config) * self._expert_share(s) for s in self._experts) / layers
        return dense + round(one * experts_read)

    def macs(self) -> int:
        """int8 multiply-accumulates of a row, logits included.

        Activations of 16 bits, those of a head that is not calibrated, take two each where all logits are wanted; for
        the largest one nearly all weights are multiplied with the high halves only.
        """
        top_k = 0 if self.moe is None else self.moe.top_k
        dense = sum(s.shape[-2] * s.shape[-1] for s in self._dense)
        each = products(self._head, self.weights, self.config) if self._all_logits else 1
        dense += each * self._head.shape[-2] * self._head.shape[-1]
        return dense + top_k * sum(s.shape[-2] * s.shape[-1] for s in self._experts)


def products(spec: TensorSpec, weights: Preset, config: TargetConfig) -> int:
    """int8 products for each weight: two in a matrix of a row format that is not calibrated, else one."""
    row_scaled = FORMATS[tensor_format(spec, None, weights, config)].row_scaled
    return 2 if row_scaled and mobile_scales(spec)[0] == 0 else 1


def prompt_macs(plan: Plan) -> int:
    """Multiply-accumulates of a prompt row that nobody wants: of the matrices before the plan's gather."""
    total = 0
    for node in plan.nodes:
        if isinstance(node, GatherRows):
            break
        if isinstance(node, Linear):
            total += plan.widths[node.out] * node.w.k
        elif isinstance(node, Experts):
            total += node.top_k * (node.gate_up.n * node.gate_up.k + node.down.n * node.down.k)
    return total


def attention_work(bench: StepBench) -> tuple[int, int, int]:
    """Bytes of keys and values of a pass, multiply-accumulates of a row, and the int8 products that each costs."""
    behind = AttentionCosts(bench.target.plan).at(bench.context)
    if bench.target.kv_format == "f16":  # products in float32, of which a register holds a quarter as many
        return behind.bytes, behind.macs, 4
    return behind.bytes // 2, behind.macs, 1


def run(
    bench: StepBench, rows: list[int], repeats: int, on_round: Callable[[int, int], None] = lambda done, all: None
) -> dict[str, Any]:
    """Measure in ``repeats`` interleaved rounds; the JSON object of ``geminate bench step``."""
    config, work = bench.config, Work(bench.config, bench.weights, all_logits=bench.all_logits)
    layers = len(config.layers)
    steps: dict[int, list[float]] = {m: [] for m in rows}
    fractions: dict[int, list[float]] = {m: [] for m in rows}
    experts: dict[int, int] = {}
    bandwidth, peak, draft, prefill, full, share = [], [], [], [], [], []
    prompt = prompt_macs(bench.target.plan)
    kv_bytes, attention_macs, slower = attention_work(bench)
    every = max(1, repeats // 3)  # a prefill takes as long as many passes
    for m in rows:  # pages, tables, threads
        bench.step(m)
    bench.draft_step()
    for index in range(repeats):
        bandwidth.append(bench.ceilings.bandwidth())
        peak.append(bench.ceilings.int8_peak())
        for m in rows:
            took = bench.step(m)
            experts[m] = bench.experts_read
            steps[m].append(took)
            least = (work.bytes(experts[m], layers) + kv_bytes) / bandwidth[-1]
            if bench.weights != "bf16":  # its products are float32, whose peak is not measured
                least = max(least, m * (work.macs() + attention_macs * slower) / peak[-1])
            fractions[m].append(least / took)
        bench.step(1)
        draft.append(bench.draft_step())
        if index % every == every - 1:
            prefill.append(bench.prefill())
            share.append(bench.prefill_tokens * prompt / prefill[-1] / peak[-1])
            full.append(bench.prefill(program=bench.every_row))
        on_round(index + 1, repeats)
    median = statistics.median
    plain = steps[rows[0]]
    ratio = {m: median(t / one for t, one in zip(steps[m], plain, strict=True)) for m in rows}
    result: dict[str, Any] = {
        "benchmark": "step", "version": __version__, "machine": machine.describe(), "isa": bench.backend.isa,
        "threads": bench.backend.threads, "weights": bench.weights, "layers": layers,
        "of_layers": bench.total_layers, "kv": bench.target.kv_format, "context": bench.context, "repeats": repeats,
        "all_logits": bench.all_logits,
        "bandwidth_gbps": round(median(bandwidth) / 1e9, 1), "int8_gmacs": round(median(peak) / 1e9, 1),
        "weight_bytes": work.bytes(experts[rows[0]], layers), "macs_per_row": work.macs(),
        "kv_bytes": kv_bytes, "attention_macs_per_row": attention_macs,
        "step_ms": {str(m): round(median(t) * 1e3, 2) for m, t in steps.items()},
        "best_ms": {str(m): round(min(t) * 1e3, 2) for m, t in steps.items()},
        "ratio": {str(m): round(r, 3) for m, r in ratio.items()}, "ratio_to_rows": rows[0],
        "ceiling_fraction": {str(m): round(median(f), 3) for m, f in fractions.items()},
        "draft_step_ms": round(median(draft) * 1e3, 4),
        "draft_step_share": round(median(d / one for d, one in zip(draft, plain, strict=True)), 4),
        "prefill_tokens": bench.prefill_tokens,
        "prefill_tokens_per_s": round(bench.prefill_tokens / median(prefill), 1),
        "prefill_full_tokens_per_s": round(bench.prefill_tokens / median(full), 1),
        "prefill_macs_per_token": prompt, "prefill_peak_share": round(median(share), 3),
    }  # fmt: skip
    if config.moe is not None:
        result["experts_per_layer"] = {str(m): round(n / layers, 1) for m, n in experts.items()}
        result["weight_bytes_by_rows"] = {str(m): work.bytes(n, layers) for m, n in experts.items()}
    return result
