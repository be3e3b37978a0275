"""The decoder as plan operations; targets of both generations and drafters share it.

Arithmetic as in transformers' Gemma4TextDecoderLayer (models/gemma4/modeling_gemma4.py); where the configuration says
so, as in Gemma3DecoderLayer (models/gemma3/modeling_gemma3.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from geminate.plan.builder import PlanBuilder, Weights
from geminate.plan.config import LayerConfig, MoeConfig, TargetConfig
from geminate.plan.nodes import (
    AddScaled,
    Attention,
    Embed,
    Experts,
    GatherRows,
    GeluMul,
    KvStore,
    Linear,
    Plan,
    RmsNorm,
    Rope,
    RopeTable,
    RowLookup,
    Softcap,
    Tap,
)


def rope_tables(config: TargetConfig) -> dict[str, RopeTable]:
    """One rotary table per layer kind that occurs."""
    tables: dict[str, RopeTable] = {}
    for layer in config.layers:
        if layer.kind not in tables:
            tables[layer.kind] = RopeTable(config.inv_freq(layer.kind), layer.head_dim)
    return tables


def target_plan(config: TargetConfig, store: Weights) -> Plan:
    """The plan of Gemma4ForCausalLM.forward, or Gemma3ForCausalLM's: rows of ids to hidden states and logits.

    Behind the last layer's KvStore only wanted rows go on: no row reads anything but keys and values of another.
    """
    b = PlanBuilder(store, hidden_size=config.hidden_size, eps=config.rms_norm_eps, ropes=rope_tables(config))
    embedding = store.embedding()
    b.add(Embed(out=b.buffer("x", config.hidden_size), table=embedding, scale=config.embed_scale))
    last = max(layer.index for layer in config.layers if not layer.kv_shared)
    ple = add_per_layer_inputs(b, config, "x", "ple", range(last))
    for layer in config.layers:
        # KV-producing layers come first, so a donor's layer index is its slot.
        add_attention(b, layer, slot=layer.kv_donor, own_position=True, gather=layer.index == last)
        if layer.index == last:
            b.add(Embed(out=b.buffer("embedded", config.hidden_size), table=embedding, scale=config.embed_scale))
            ple = add_per_layer_inputs(b, config, "embedded", "ple_wanted", range(last, len(config.layers)))
        add_feed_forward(b, layer, moe=config.moe, ple=ple)
    b.norm("x", "hidden", "norm")
    b.add(Tap(x="hidden", name="norm"))
    b.add(Linear(x="hidden", out=b.buffer("logits", config.vocab_size), w=store.head()))
    if config.softcap is not None:
        b.add(Softcap(x="logits", cap=config.softcap))
    return b.finish(hidden="hidden", logits="logits", slots=len(config.kv_slots))


@dataclass(frozen=True, kw_only=True)
class PerLayerInputs:
    """Per-layer embeddings in buffer ``out``, ``width`` columns for each layer from ``first`` on."""

    out: str
    width: int
    first: int


def add_per_layer_inputs(
    b: PlanBuilder, config: TargetConfig, embedded: str, out: str, layers: range
) -> PerLayerInputs | None:
    """Gemma4TextModel.project_per_layer_inputs, the columns of these layers; None where there are none.

    Args:
        embedded: buffer of the rows' scaled embeddings.
    """
    width = config.ple_dim
    if not width or not layers:
        return None
    columns = range(layers.start * width, layers.stop * width)
    b.linear(embedded, out, "per_layer_model_projection", scale=1.0 / math.sqrt(config.hidden_size), rows=columns)
    b.norm(out, out, "per_layer_projection_norm", groups=len(layers))
    table = b.store.row_table("embed_tokens_per_layer")
    rows = b.buffer(f"{out}_rows", len(columns))
    b.add(RowLookup(out=rows, table=table, scale=config.ple_scale, column=columns.start))
    b.add(AddScaled(a=out, b=rows, out=out, scale=2.0**-0.5))
    return PerLayerInputs(out=out, width=width, first=layers.start)


def add_attention(b: PlanBuilder, layer: LayerConfig, *, slot: int, own_position: bool, gather: bool = False) -> None:
    """Attention block with its two norms and the residual: x <- x + norm(o_proj(attention(norm(x)))).

    Args:
        slot: cache slot that holds this layer's keys and values.
        own_position: whether a row sees its own position (the target) or only those before (the drafter).
        gather: whether only wanted rows go on behind the layer's keys and values.
    """
    attn = f"layers.{layer.index}.self_attn"
    b.norm("x", "h", f"layers.{layer.index}.input_layernorm")
    if gather:
        add_keys_and_values(b, layer, slot)
        b.add(GatherRows(x="x"), GatherRows(x="h"))
        q = add_queries(b, layer)
    else:  # projections side by side make one stage
        q = add_queries(b, layer)
        if not layer.kv_shared:
            add_keys_and_values(b, layer, slot)
    attended = b.buffer(f"attn{b.widths[q]}", b.widths[q])
    b.add(
        Attention(
            q=q,
            out=attended,
            slot=slot,
            heads=layer.heads,
            kv_heads=layer.kv_heads,
            head_dim=layer.head_dim,
            window=layer.window,
            include_self=own_position,
        )
    )
    b.linear(attended, "h", f"{attn}.o_proj")
    b.norm("h", "h", f"layers.{layer.index}.post_attention_layernorm")
    b.add(AddScaled(a="x", b="h", out="x"))


def add_queries(b: PlanBuilder, layer: LayerConfig) -> str:
    """Normed and rotated queries of ``h``; returns their buffer."""
    attn = f"layers.{layer.index}.self_attn"
    q = b.linear("h", f"q{layer.heads * layer.head_dim}", f"{attn}.q_proj")
    # The factor of the scores goes into the weight: attention itself has none.
    b.norm(q, q, f"{attn}.q_norm", groups=layer.heads, scale=layer.query_scale)
    b.add(Rope(x=q, groups=layer.heads, rope=b.rope_index[layer.kind]))
    return q


def add_keys_and_values(b: PlanBuilder, layer: LayerConfig, slot: int) -> None:
    """Keys and values of ``h`` into a cache slot."""
    attn = f"layers.{layer.index}.self_attn"
    width = layer.kv_heads * layer.head_dim
    k = b.linear("h", f"k{width}", f"{attn}.k_proj")
    v = f"v{width}"
    if layer.k_eq_v:
        b.norm(k, v, None, groups=layer.kv_heads)  # before k_norm overwrites k
    else:
        b.linear("h", v, f"{attn}.v_proj")
        if layer.v_norm:
            b.norm(v, v, None, groups=layer.kv_heads)
    b.norm(k, k, f"{attn}.k_norm", groups=layer.kv_heads)
    b.add(Rope(x=k, groups=layer.kv_heads, rope=b.rope_index[layer.kind]), KvStore(k=k, v=v, slot=slot))


def add_feed_forward(
    b: PlanBuilder, layer: LayerConfig, *, moe: MoeConfig | None = None, ple: PerLayerInputs | None = None
) -> None:
    """MLP, per-layer input and residuals over ``x``, ending in a Tap named ``layers.N``."""
    name = f"layers.{layer.index}"
    scalar = b.store.scalar(f"{name}.layer_scalar") if layer.layer_scalar else 1.0
    add_mlp(b, layer, moe)
    if ple is None:
        b.add(AddScaled(a="x", b="h", out="x", scale=scalar))
    else:
        b.add(AddScaled(a="x", b="h", out="x"))
        gate = b.linear("x", f"gate{ple.width}", f"{name}.per_layer_input_gate")
        b.add(GeluMul(gate=gate, up=ple.out, out=gate, up_offset=(layer.index - ple.first) * ple.width))
        b.linear(gate, "h", f"{name}.per_layer_projection")
        b.norm("h", "h", f"{name}.post_per_layer_input_norm")
        b.add(AddScaled(a="x", b="h", out="x", scale=scalar))
    b.add(Tap(x="x", name=name))


def add_mlp(b: PlanBuilder, layer: LayerConfig, moe: MoeConfig | None) -> None:
    """MLP, with the expert block beside it where there is one; leaves the normed sum in ``h``.

    The router and the experts read the residual before the MLP, through norms of their own.
    """
    name = f"layers.{layer.index}"
    b.norm("x", "h", f"{name}.pre_feedforward_layernorm")
    gate = b.linear("h", f"gate{layer.intermediate}", f"{name}.mlp.gate_proj")
    up = b.linear("h", f"up{layer.intermediate}", f"{name}.mlp.up_proj")
    b.add(GeluMul(gate=gate, up=up, out=gate))
    b.linear(gate, "h", f"{name}.mlp.down_proj")
    if moe is not None:
        b.norm("h", "h", f"{name}.post_feedforward_layernorm_1")
        scale = b.store.vector(f"{name}.router.scale") * (1.0 / math.sqrt(b.hidden_size))
        b.buffer("routed", b.hidden_size)
        b.add(RmsNorm(x="x", out="routed", weight=scale.astype("float32"), eps=b.eps))
        b.linear("routed", "scores", f"{name}.router.proj")
        b.norm("x", "routed", f"{name}.pre_feedforward_layernorm_2")
        b.add(
            Experts(
                x="routed",
                scores="scores",
                out=b.buffer("expert_sum", b.hidden_size),
                gate_up=b.store.matrix(f"{name}.experts.gate_up_proj"),
                down=b.store.matrix(f"{name}.experts.down_proj"),
                top_k=moe.top_k,
                per_expert_scale=b.store.vector(f"{name}.router.per_expert_scale"),
            )
        )
        b.norm("expert_sum", "expert_sum", f"{name}.post_feedforward_layernorm_2")
        b.add(AddScaled(a="h", b="expert_sum", out="h"))
    b.norm("h", "h", f"{name}.post_feedforward_layernorm")
