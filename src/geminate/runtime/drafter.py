"""The MTP drafter: Gemma4AssistantForCausalLM as a plan that reads the target's KV cache.

One row per step: [embedding of the last token (the target's table), hidden state] -> pre_projection ->
layers with queries only -> norm -> logits (tied table or centroid head) and post_projection, the
next step's hidden state. Position and K/V stay constant through a round.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from geminate.arrays import F32, I32
from geminate.decoding.draft_rule import DraftRule, DraftStop
from geminate.kv.store import KVStore
from geminate.plan.builder import PlanBuilder, add_layer
from geminate.plan.config import AssistantConfig
from geminate.plan.nodes import CentroidHead, Concat, Embed, Linear, Plan
from geminate.runtime.compatibility import check_fit
from geminate.runtime.target import TargetModel, rope_tables
from geminate.weights.store import WeightStore

RopePosition = Literal["P", "P-1"]


def drafter_plan(config: AssistantConfig, store: WeightStore, target: TargetModel) -> Plan:
    """The plan of one draft step."""
    text = config.text
    b = PlanBuilder(store, hidden_size=text.hidden_size, eps=text.rms_norm_eps, ropes=rope_tables(text))
    backbone = config.backbone_hidden_size
    b.buffer("hidden_in", backbone)
    b.add(
        Embed(
            out=b.buffer("embedded", backbone),
            table=target.store.embedding(),
            scale=target.config.embed_scale,
        ),
        Concat(a="embedded", b="hidden_in", out=b.buffer("pair", 2 * backbone)),
    )
    b.linear("pair", "x", "pre_projection")
    donors = {
        layer.kind: layer.index for layer in target.config.layers if not layer.kv_shared
    }  # the last of each kind wins
    for layer in text.layers:
        add_layer(b, layer, slot=donors[layer.kind], own_position=False)
    b.norm("x", "normed", "norm")
    b.linear("normed", "projected", "post_projection")
    table = store.embedding()
    if not config.use_ordered_embeddings:
        b.add(Linear(x="normed", out=b.buffer("logits", table.n), w=table))
        return b.finish(hidden="projected", logits="logits", slots=len(target.slots))
    width = config.centroid_top_k * (text.vocab_size // config.num_centroids)
    b.add(
        CentroidHead(
            x="normed",
            out=b.buffer("logits", width),
            ids=b.buffer("candidates", width),
            centroids=store.matrix("masked_embedding.centroids"),
            table=table,
            ordering=store.order("masked_embedding.token_ordering"),
            top_k=config.centroid_top_k,
        )
    )
    return b.finish(hidden="projected", logits="logits", candidate_ids="candidates", slots=len(target.slots))


class DrafterModel:
    """A compiled drafter bound to its target.

    Args:
        config, store: as loaded from the drafter's checkpoint.
        target: the compiled target whose embedding table, KV slots and backend it uses.
        rope_position: ``P`` (the bonus token's position, as in transformers) or ``P-1`` (LiteRT-LM, vLLM).

    Raises:
        DrafterMismatchError: the drafter does not fit the target.
    """

    def __init__(
        self,
        config: AssistantConfig,
        store: WeightStore,
        target: TargetModel,
        rope_position: RopePosition = "P",
    ) -> None:
        check_fit(target.config, config)
        self.config = config
        self.store = store
        self.rope_position = rope_position
        self.plan = drafter_plan(config, store, target)
        self.program = target.backend.compile(self.plan, max_rows=1)

    def _rope(self, position: int) -> int:
        return position if self.rope_position == "P" else max(position - 1, 0)

    def draft(
        self, token: int, hidden: F32, cache: KVStore, k: int, rule: DraftRule, stop: DraftStop | None = None
    ) -> tuple[I32, F32]:
        """Guess up to k tokens after ``token``, which stands unprocessed at position ``cache.length``.

        Args:
            hidden: float32 [backbone], the target's post-norm hidden state of the row before.

        Returns:
            ids int32 [j] and the drafter's probability of each guess, float32 [j]; j is k unless ``stop`` ended it.
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
