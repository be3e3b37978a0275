"""Types of the C++ module; native/binding/module.cpp defines it, tests/native compares the two.

Arrays must be C-contiguous and of the dtype given here; every call checks sizes and raises ValueError that names
the argument. Integers called ``x``, ``a``, ``out`` and the like are numbers of a program's buffers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geminate.arrays import F32, F64, I32, I64, U8, U16, U64

def arithmetic() -> int:
    """`geminate.kv.store.ARITHMETIC`."""

def supported_isas() -> list[str]:
    """Instruction sets of this build that this machine runs, best first."""

def stream_key(seed: int, choice: int, position: int) -> int:
    """`geminate.decoding.noise.stream_key`."""

def uniform(key: int, token_id: int) -> float:
    """`geminate.decoding.noise.uniform` of one token."""

def logarithm(z: float) -> float:
    """`geminate.elementary.log` of one number."""

def weight(y: float) -> int:
    """`geminate.elementary.weights` of one number."""

def report_bus_errors(head: str, tail: str) -> None:
    """`geminate.backends.cpu.program.report_bus_errors`."""

class Matrix:
    """Weights ``[stack, n, k]`` as `geminate.backends.tiles` lays them out, kept alive.

    Args:
        format: a name of `geminate.formats.table`.
        data: uint8, flat.
        scales: float16 bits, flat; of the group formats.
        row_scales: flat; of the row formats.
        input_scale, output_scale: see `geminate.formats.matrix.PackedMatrix`.
    """

    def __init__(
        self,
        format: str,
        n: int,
        k: int,
        stack: int,
        data: U8,
        scales: U16 | None,
        row_scales: F32 | None = None,
        input_scale: float = 0.0,
        output_scale: float = 0.0,
    ) -> None: ...

class RowTable:
    """A table ``[rows, width]`` read row by row, kept alive; arguments as `Matrix`, int4 aside."""

    def __init__(
        self, format: str, rows: int, width: int, data: U8, scales: U16 | None, row_scales: F32 | None = None
    ) -> None: ...

class Pool:
    """Threads that programs share."""

    def __init__(self, threads: int) -> None: ...
    def read_seconds(self, isa: str, data: U8) -> float: ...
    def multiply_rate(self, isa: str, rounds: int) -> float: ...

class Program:
    """A compiled plan: one call for each step, then `finish`, then `run` or `draft`."""

    def __init__(self, pool: Pool, isa: str, max_rows: int, widths: Sequence[int]) -> None: ...
    def embed(self, out: int, table: Matrix, scale: float) -> None: ...
    def lookup(self, out: int, table: RowTable, scale: float, column: int) -> None: ...
    def concat(self, a: int, b: int, out: int) -> None: ...
    def norm(self, x: int, out: int, weight: F32 | None, eps: float, groups: int) -> None: ...
    def linear(self, x: int, out: int, w: Matrix, scale: float) -> None: ...
    def add(self, a: int, b: int, out: int, scale: float) -> None: ...
    def gelu(self, gate: int, up: int, out: int, offset: int) -> None: ...
    def rope(self, x: int, groups: int, table: int) -> None: ...
    def kv_store(self, keys: int, values: int, slot: int, kv_heads: int) -> None: ...
    def attention(
        self, q: int, out: int, slot: int, heads: int, kv_heads: int, head_dim: int, window: int, include_self: bool
    ) -> None: ...
    def softcap(self, x: int, cap: float) -> None: ...
    def gather(self, x: int) -> None: ...
    def tap(self, x: int, index: int) -> None: ...
    def experts(self, x: int, scores: int, out: int, gate_up: Matrix, down: Matrix, top_k: int, scale: F32) -> None: ...
    def centroid_head(
        self, x: int, out: int, ids: int, centroids: Matrix, table: Matrix, order: I32, top_k: int
    ) -> None: ...
    def finish(self, hidden: int, logits: int, candidates: int, hidden_in: int, external: Sequence[int]) -> None:
        """Makes the stages. -1 stands for no candidates and no hidden_in; `external` buffers are bound by each run."""

    def run(
        self,
        ids: I32,
        positions: I32,
        sequences: I32,
        head_rows: I32,
        caches: U64,
        cosines: Sequence[F32],
        sines: Sequence[F32],
        hidden: F32,
        logits: F32,
        taps: Sequence[F32],
        largest: bool = False,
    ) -> None:
        """One pass over rows ``ids``; fills hidden [head rows, width], logits [head rows, vocabulary] and the taps.

        Args:
            largest: only the largest logit of each row need be exact; others may be too large, but stay below it.
            caches: uint64 [sequences, slots, 5]: addresses of keys and values, rows of the ring, addresses of key
                and value scales (0: float16).
            cosines: of each rope table, float32 [positions, pairs].
        """

    def draft(
        self,
        token: int,
        hidden: F32,
        position: int,
        rope_position: int,
        caches: U64,
        cosines: Sequence[F32],
        sines: Sequence[F32],
        k: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
        choice: int,
        calibration: F32 | None,
        ahead: F32 | None,
        need: F32 | None,
        ids: I32,
        probabilities: F32,
        logits: F32,
        next: F32,
        candidates: I32,
    ) -> int:
        """At most k draft tokens into ids and probabilities [k]; returns how many.

        The rule and the stop are `geminate.decoding.draft_rule`'s. logits, next (the hidden state) and candidates
        (empty: not wanted) are those of the last step.
        """

    def expert_reads(self) -> int:
        """Experts that the last pass read, over all layers."""

class SamplingRule:
    """How one sequence samples: the fields of `geminate.params.ResolvedSampling`, and its choice.

    Args:
        least: natural logarithm of min_p, or -inf.
        bias_ids: ascending.
    """

    def __init__(
        self,
        temperature: float,
        top_k: int,
        top_p: float,
        least: float,
        repetition: float,
        presence: float,
        frequency: float,
        bias_ids: Sequence[int],
        bias_amounts: Sequence[float],
        seed: int,
        choice: int,
    ) -> None: ...

class Sampler:
    """Draws from logits on the threads of a pool; one call at a time."""

    def __init__(self, pool: Pool, isa: str) -> None: ...
    def draw(
        self,
        logits: F32,
        rules: Sequence[SamplingRule],
        firsts: Sequence[int],
        positions: Sequence[int],
        drafts: Sequence[Sequence[int]],
        counted: Sequence[I64],
        allowed: NDArray[np.bool_] | None,
    ) -> list[list[int]]:
        """Tokens of parts of logits [rows, vocabulary]: part i has rows firsts[i] .. firsts[i] + len(drafts[i]).

        -1 stands for a row that cannot be drawn from. A part may end early, behind a token that is not its draft.

        Args:
            positions: of the tokens that the first rows predict.
            counted: for each rule with a penalty, distinct token ids and their occurrences in the output.
            allowed: bool [vocabulary], for all rows; None allows every token.
        """

    def logprobs(self, logits: F32, tokens: Sequence[int], top: int, chosen: F64, ids: I32, values: F64) -> bool:
        """Log-probabilities of tokens [rows] into chosen [rows], of the `top` best into ids and values [rows, top].

        False if a logit is not finite.
        """
