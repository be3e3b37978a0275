"""The decoder as plan operations; targets of both generations and drafters share it.

Arithmetic as in transformers' Gemma4TextDecoderLayer (models/gemma4/modeling_gemma4.py); where the configuration says
so, as in Gemma3DecoderLayer (models/gemma3/modeling_gemma3.py).
"""

from __future__ import annotations

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
    """The plan of Gemma4ForCausalLM.forward, or Gemma3ForCausalLM's: rows of ids to hidden states and logits."""
    b = PlanBuilder(store, hidden_size=config.hidden_size, eps=config.rms_norm_eps, ropes=rope_tables(config))
    b.buffer("x", config.hidden_size)
    b.add(Embed(out="x", table=store.embedding(), scale=config.embed_scale))
    if config.ple_dim:
        width = len(config.layers) * config.ple_dim
        b.linear("x", "ple", "per_layer_model_projection", scale=config.hidden_size**-0.5)
        b.norm("ple", "ple", "per_layer_projection_norm", groups=len(config.layers))
        table = store.row_table("embed_tokens_per_layer")
        b.add(RowLookup(out=b.buffer("ple_rows", width), table=table, scale=config.ple_scale))
        b.add(AddScaled(a="ple", b="ple_rows", out="ple", scale=2.0**-0.5))
    for layer in config.layers:
        # KV-producing layers come first, so a donor's layer index is its slot.
        add_layer(
            b,
            layer,
            slot=layer.kv_donor,
            own_position=True,
            moe=config.moe,
            ple_dim=config.ple_dim,
        )
    b.norm("x", "hidden", "norm")
    b.add(Tap(x="hidden", name="norm"))
    b.add(GatherRows(x="hidden", out=b.buffer("head_in", config.hidden_size)))
    embedding = store.embedding()
    b.add(Linear(x="head_in", out=b.buffer("logits", config.vocab_size), w=embedding))
    if config.softcap is not None:
        b.add(Softcap(x="logits", cap=config.softcap))
    return b.finish(hidden="hidden", logits="logits", slots=len(config.kv_slots))


def add_attention(b: PlanBuilder, layer: LayerConfig, *, slot: int, own_position: bool) -> None:
    """Attention block with its two norms and the residual: x <- x + norm(o_proj(attention(norm(x)))).

    Args:
        slot: cache slot that holds this layer's keys and values.
        own_position: whether a row sees its own position (the target) or only those before (the drafter).
    """
    name = f"layers.{layer.index}"
    attn = f"{name}.self_attn"
    rope = b.rope_index[layer.kind]
    b.norm("x", "h", f"{name}.input_layernorm")
    q = b.linear("h", f"q{layer.heads * layer.head_dim}", f"{attn}.q_proj")
    # The factor of the scores goes into the weight: attention itself has none.
    b.norm(q, q, f"{attn}.q_norm", groups=layer.heads, scale=layer.query_scale)
    b.add(Rope(x=q, groups=layer.heads, rope=rope))
    if not layer.kv_shared:
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
        b.add(Rope(x=k, groups=layer.kv_heads, rope=rope), KvStore(k=k, v=v, slot=slot))
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
    b.norm("h", "h", f"{name}.post_attention_layernorm")
    b.add(AddScaled(a="x", b="h", out="x"))


def add_feed_forward(b: PlanBuilder, layer: LayerConfig, moe: MoeConfig | None) -> None:
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
        scale = b.store.vector(f"{name}.router.scale") * b.hidden_size**-0.5
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


def add_layer(
    b: PlanBuilder,
    layer: LayerConfig,
    *,
    slot: int,
    own_position: bool,
    moe: MoeConfig | None = None,
    ple_dim: int = 0,
) -> None:
    """One whole decoder layer over the residual stream ``x``, ending in a Tap named ``layers.N``."""
    name = f"layers.{layer.index}"
    scalar = b.store.scalar(f"{name}.layer_scalar") if layer.layer_scalar else 1.0
    add_attention(b, layer, slot=slot, own_position=own_position)
    add_feed_forward(b, layer, moe)
    if ple_dim == 0:
        b.add(AddScaled(a="x", b="h", out="x", scale=scalar))
    else:
        b.add(AddScaled(a="x", b="h", out="x"))
        gate = b.linear("x", f"gate{ple_dim}", f"{name}.per_layer_input_gate")
        b.add(GeluMul(gate=gate, up="ple", out=gate, up_offset=layer.index * ple_dim))
        b.linear(gate, "h", f"{name}.per_layer_projection")
        b.norm("h", "h", f"{name}.post_per_layer_input_norm")
        b.add(AddScaled(a="x", b="h", out="x", scale=scalar))
    b.add(Tap(x="x", name=name))
