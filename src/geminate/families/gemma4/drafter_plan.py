"""The MTP drafter: Gemma4AssistantForCausalLM as a plan that reads the target's KV cache.

One row per step: [embedding of the last token (the target's table), hidden state] -> pre_projection ->
layers with queries only -> norm -> logits (tied table or centroid head) and post_projection, the
next step's hidden state. Position and K/V stay constant through a round.
"""

from __future__ import annotations

from geminate.families.decoder.plan import add_attention, add_feed_forward, rope_tables
from geminate.plan.builder import PlanBuilder, Weights
from geminate.plan.config import AssistantConfig, TargetConfig
from geminate.plan.nodes import CentroidHead, Concat, Embed, Linear, Plan


def drafter_plan(config: AssistantConfig, store: Weights, target: TargetConfig, target_store: Weights) -> Plan:
    """The plan of one draft step."""
    text = config.text
    b = PlanBuilder(store, hidden_size=text.hidden_size, eps=text.rms_norm_eps, ropes=rope_tables(text))
    backbone = config.backbone_hidden_size
    b.buffer("hidden_in", backbone)
    b.add(
        Embed(
            out=b.buffer("embedded", backbone),
            table=target_store.embedding(),
            scale=target.embed_scale,
        ),
        Concat(a="embedded", b="hidden_in", out=b.buffer("pair", 2 * backbone)),
    )
    b.linear("pair", "x", "pre_projection")
    donors = {layer.kind: layer.index for layer in target.layers if not layer.kv_shared}  # the last of each kind wins
    for layer in text.layers:
        add_attention(b, layer, slot=donors[layer.kind], own_position=False)
        add_feed_forward(b, layer)
    b.norm("x", "normed", "norm")
    b.linear("normed", "projected", "post_projection")
    table = store.head()
    if not config.use_ordered_embeddings:
        b.add(Linear(x="normed", out=b.buffer("logits", table.n), w=table))
        return b.finish(hidden="projected", logits="logits", slots=len(target.kv_slots))
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
    return b.finish(hidden="projected", logits="logits", candidate_ids="candidates", slots=len(target.kv_slots))
