"""Backends that run plans: the NumPy reference (the oracle) and the native kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from geminate.cache import KVCache
from geminate.ops.plan import Plan
from geminate.types import F32, I32


@dataclass(frozen=True, kw_only=True)
class DraftRule:
    """How the drafter picks its guess from its own logits; it never affects what is emitted.

    temperature 0 is argmax. Otherwise: logits / temperature, the ``top_k`` largest (0: backend's
    limit of 64), then top_p and min_p, then argmax of (log q + Gumbel noise of (seed, choice,
    position of the guessed token, token id)): the noise the target will use at that position.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0


STOP_BINS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftStop:
    """When a draft ends before k guesses.

    After guess j with probability q: survival *= calibration[bin of q], bins of equal width over 0..1; guess
    j + 1 is made only if survival * ahead[j + 1] >= need[j + 1].

    Attributes:
        calibration: float32 [STOP_BINS], chance that a guess of this confidence is accepted.
        ahead: float32 [>= k], chance that guess j is accepted before it is known.
        need: float32 [>= k], least survival that pays for guess j.
    """

    calibration: F32
    ahead: F32
    need: F32


def confidence_bin(confidence: float) -> int:
    """Index into `DraftStop.calibration`; NaN counts as 0."""
    return min(int(confidence * STOP_BINS), STOP_BINS - 1) if confidence > 0 else 0


class Program(Protocol):
    """A compiled plan."""

    def run(
        self,
        ids: I32,
        positions: I32,
        sequences: I32,
        caches: list[KVCache],
        head_rows: I32,
        *,
        taps: dict[str, F32] | None = None,
    ) -> tuple[F32, F32]:
        """One pass over M rows.

        Args:
            ids, positions: int32 [M]. sequences: int32 [M], index into ``caches``. Rows of a
                sequence are consecutive positions in order, and the cache has room (`reserve`).
            head_rows: int32 [H], increasing row indices whose logits are wanted; may be empty.
            taps: filled with a copy [rows, width] for every Tap node when given.

        Returns:
            hidden float32 [M, width] (post-norm) and logits float32 [H, vocab]. The caller owns both.
        """
        ...

    def draft(
        self,
        token: int,
        hidden: F32,
        position: int,
        rope_position: int,
        cache: KVCache,
        k: int,
        rule: DraftRule,
        stop: DraftStop | None = None,
    ) -> tuple[I32, F32]:
        """Up to k steps of a drafter plan: ids int32 [j <= k] and the drafter's probability of each, float32 [j].

        All k steps unless ``stop`` ends the draft earlier.

        Step j runs one row with id ``token`` (then its own guesses), ``hidden_in`` = ``hidden``
        float32 [backbone] (then its own ``plan.hidden``), position constant. The guess of step j
        stands at absolute position ``position + 1 + j``. Probability: of the untruncated softmax at
        temperature 1 over the candidates.
        """
        ...

    def draft_step(
        self, token: int, hidden: F32, position: int, rope_position: int, cache: KVCache
    ) -> tuple[I32, F32, F32]:
        """One drafter step, everything returned: candidate ids [C], logits [C], next hidden [backbone]."""
        ...


class Backend(Protocol):
    """Compiles plans."""

    name: str
    isa: str
    threads: int

    def compile(self, plan: Plan, *, max_rows: int) -> Program:
        """A program that runs up to ``max_rows`` rows a pass."""
        ...
