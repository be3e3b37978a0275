"""What a backend is: it compiles plans into programs."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from geminate.arrays import F32, I32
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.decoding.sampler import Sampler
from geminate.formats.matrix import Layout
from geminate.formats.table import WeightFormat
from geminate.kv.store import KVDtype, KVFactory, KVStore, SlotSpec
from geminate.plan.batch import Batch
from geminate.plan.nodes import Plan


class Program(Protocol):
    """A compiled plan."""

    def run(self, batch: Batch, *, taps: dict[str, F32] | None = None) -> tuple[F32, F32]:
        """One pass over the M rows of a batch, whose caches have room for them (`reserve`).

        Args:
            taps: filled with a copy [M, width] for every Tap node when given.

        Returns:
            hidden float32 [H, width] (post-norm) and logits float32 [H, vocab] of the H wanted rows, all of them exact
            unless ``batch.largest``. The caller owns both.

        Raises:
            ValueError: taps of a pass that does not want every row: the others do not reach all of them.
        """
        ...

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
        """Up to k steps of a drafter plan: ids int32 [j <= k] and the drafter's probability of each, float32 [j].

        All k steps unless ``stop`` ends the draft earlier.

        Step j runs one row with id ``token`` (then its own draft tokens), ``hidden_in`` = ``hidden``
        float32 [backbone] (then its own ``plan.hidden``), position constant. The token of step j
        stands at absolute position ``position + 1 + j``. Probability: of the untruncated softmax at
        temperature 1 over the candidates.
        """
        ...

    @property
    def expert_reads(self) -> int:
        """Experts that the last pass read, over all layers; 0 where that is not counted."""
        ...

    def draft_step(
        self, token: int, hidden: F32, position: int, rope_position: int, cache: KVStore
    ) -> tuple[I32, F32, F32]:
        """One drafter step, everything returned: candidate ids [C], logits [C], next hidden [backbone]."""
        ...


class Backend(Protocol):
    """Compiles plans."""

    name: str
    isa: str
    threads: int

    @property
    def sampler(self) -> Sampler:
        """What draws tokens from logits, with this backend's threads."""
        ...

    def new_kv(self, slots: tuple[SlotSpec, ...], *, max_rows: int, dtype: KVDtype = "float16") -> KVFactory:
        """What makes the KV stores of a model whose passes write up to ``max_rows`` rows.

        Raises:
            BackendError: a dtype that this backend does not have.
        """
        ...

    def layout(self, fmt: WeightFormat) -> Layout:
        """How this backend wants weights of a format in memory."""
        ...

    def compile(self, plan: Plan, *, max_rows: int) -> Program:
        """A program that runs up to ``max_rows`` rows a pass."""
        ...


class MeasuredBackend(Backend, Protocol):
    """A backend that can measure the ceilings of this machine."""

    def read_seconds(self, data: np.ndarray) -> float:
        """Seconds in which all threads together read ``data`` (uint8 [n]) once."""
        ...

    def multiply_rate(self) -> float:
        """int8 multiply-accumulates a second of all threads, operands in registers."""
        ...
