"""The compiled drafter, bound to its target."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from geminate.arrays import F32, I32
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.kv.store import KVStore
from geminate.plan.config import AssistantConfig
from geminate.plan.nodes import Plan
from geminate.runtime.target import TargetModel
from geminate.weights.store import WeightStore

RopePosition = Literal["P", "P-1"]
ROPE_POSITIONS: tuple[RopePosition, ...] = get_args(RopePosition)


class DrafterModel:
    """A compiled drafter bound to its target.

    Args:
        config, store: as loaded from the drafter's checkpoint.
        plan: of one draft step.
        target: the compiled target whose embedding table, KV slots and backend it uses.
        rope_position: ``P`` (the bonus token's position, as in transformers) or ``P-1`` (LiteRT-LM, vLLM).
    """

    def __init__(
        self,
        config: AssistantConfig,
        store: WeightStore,
        plan: Plan,
        target: TargetModel,
        rope_position: RopePosition = "P",
    ) -> None:
        self.config = config
        self.store = store
        self.rope_position = rope_position
        self.plan = plan
        self.program = target.backend.compile(plan, max_rows=1)

    def _rope(self, position: int) -> int:
        return position if self.rope_position == "P" else max(position - 1, 0)

    def draft(
        self, token: int, hidden: F32, cache: KVStore, k: int, rule: DraftRule, stop: DraftStop | None = None
    ) -> tuple[I32, F32]:
        """Draft up to k tokens after ``token``, which stands unprocessed at position ``cache.length``.

        Args:
            hidden: float32 [backbone], the target's post-norm hidden state of the row before.

        Returns:
            ids int32 [j] and the drafter's probability of each, float32 [j]; j is k unless ``stop`` ended it.
        """
        position = cache.length
        return self.program.draft(
            token,
            np.ascontiguousarray(hidden, dtype=np.float32),
            position,
            self._rope(position),
            cache,
            k,
            rule,
            stop,
        )

    def step(self, token: int, hidden: F32, cache: KVStore) -> tuple[I32, F32, F32]:
        """One step in full: candidate ids, their logits, next hidden state (for tests and training)."""
        position = cache.length
        return self.program.draft_step(token, hidden, position, self._rope(position), cache)
