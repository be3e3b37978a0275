"""Gemma 4 in GGUF: tensor names, and metadata in the field names of config.json, so that one reader checks both.

Keys and their meaning as in llama.cpp (conversion/gemma.py, src/models/gemma4.cpp and gemma4-assistant.cpp). What a
file does not say is what llama.cpp assumes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from geminate.checkpoint.gguf_file import GgufFile
from geminate.checkpoint.gguf_tensors import GgufNames
from geminate.errors import ConfigError
from geminate.families.gemma4.dialect import DIALECT
from geminate.families.gguf_keys import GgufKeys, common_text, layer_kinds

UNROTATED = 1e29  # rope_freqs holds 1 for dimensions that turn and 1e30 for those that do not
DRAFTER = "gemma4-assistant"
TOP_K = "geminate.centroid_top_k"  # keys of our own: llama.cpp has no centroid head
RECORD = "geminate.record"
TENSORS = {
    "token_embd.weight": "embed_tokens", "output.weight": "lm_head", "output_norm.weight": "norm",
    "per_layer_token_embd.weight": "embed_tokens_per_layer",
    "per_layer_model_proj.weight": "per_layer_model_projection",
    "per_layer_proj_norm.weight": "per_layer_projection_norm",
    "nextn.pre_projection.weight": "pre_projection", "nextn.post_projection.weight": "post_projection",
    "masked_embd_centroids.weight": "masked_embedding.centroids",
    "masked_embd_ordering": "masked_embedding.token_ordering",
    "masked_embd_ordering.weight": "masked_embedding.token_ordering",
}  # fmt: skip
LAYERS = {
    "attn_norm.weight": "input_layernorm", "post_attention_norm.weight": "post_attention_layernorm",
    "ffn_norm.weight": "pre_feedforward_layernorm", "post_ffw_norm.weight": "post_feedforward_layernorm",
    "attn_q.weight": "self_attn.q_proj", "attn_k.weight": "self_attn.k_proj", "attn_v.weight": "self_attn.v_proj",
    "attn_output.weight": "self_attn.o_proj", "attn_q_norm.weight": "self_attn.q_norm",
    "attn_k_norm.weight": "self_attn.k_norm", "ffn_gate.weight": "mlp.gate_proj", "ffn_up.weight": "mlp.up_proj",
    "ffn_down.weight": "mlp.down_proj", "layer_output_scale.weight": "layer_scalar",
    "inp_gate.weight": "per_layer_input_gate", "proj.weight": "per_layer_projection",
    "post_norm.weight": "post_per_layer_input_norm",
    "ffn_gate_inp.weight": "router.proj", "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale", "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj", "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2",
}  # fmt: skip
# rope_freqs is read by the configuration (which part of the full layers' dimensions turns), not a weight.
NAMES = GgufNames(tensors=TENSORS, layers=LAYERS, other=("rope_freqs.weight",))


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """What config.json would say.

    Raises:
        ConfigError: metadata that is missing or contradictory.
    """
    keys = GgufKeys(file)
    text = common_text(keys, DIALECT.turn_ends)
    text |= _text(keys, text["num_hidden_layers"])
    drafter = keys.arch == DRAFTER
    # Gemma is published in bfloat16, and its embedding scale is rounded to that whatever the file's own types are.
    raw: dict[str, Any] = {
        "model_type": "gemma4_assistant" if drafter else "gemma4_text",
        "dtype": "bfloat16",
        "text_config": text,
    }
    if drafter:
        raw |= {"backbone_hidden_size": keys.number("embedding_length_out"), "use_ordered_embeddings": False}
        centroids = file.tensors.get("masked_embd_centroids.weight")
        if centroids is not None:
            raw |= {"use_ordered_embeddings": True, "num_centroids": centroids.shape[0]}
            if TOP_K in file.metadata:
                raw["centroid_intermediate_top_k"] = file.metadata[TOP_K]
        raw |= _record(file)
    return raw


def _record(file: GgufFile) -> dict[str, Any]:
    """What `geminate train drafter` recorded, where config.json has it; nothing if it is damaged."""
    try:
        found = json.loads(str(file.metadata.get(RECORD)))
    except (ValueError, RecursionError):
        return {}
    return {"geminate": found} if isinstance(found, dict) else {}


def _text(keys: GgufKeys, count: int) -> dict[str, Any]:
    file = keys.file
    kinds = layer_kinds(keys, count, 6)
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    shared = keys.number("attention.shared_kv_layers", 0)
    widths = keys.per_layer("feed_forward_length", count)
    first_shared = count - shared
    double = 0 < first_shared < count and widths[first_shared] == 2 * widths[0]
    if any(w != widths[0] * (2 if double and i >= first_shared else 1) for i, w in enumerate(widths)):
        raise ConfigError(f"{file.path}: {keys.arch}.feed_forward_length fits no Gemma 4")
    kv = keys.per_layer("attention.head_count_kv", count)
    kv_of: dict[str, int] = {}
    for kind, heads in zip(kinds, kv, strict=True):
        if kv_of.setdefault(kind, heads) != heads:
            raise ConfigError(f"{file.path}: {kind} layers of different numbers of KV heads are not supported")
    # Wide models compute no values in full layers: they take the keys.
    k_eq_v = any(
        f"blk.{i}.attn_k.weight" in file.tensors and f"blk.{i}.attn_v.weight" not in file.tensors for i in full
    )
    if keys.arch == DRAFTER:  # it has neither; its KV heads say which kind its target is
        k_eq_v = len(set(kv_of.values())) > 1
    dim, sliding_dim = keys.number("attention.key_length"), keys.number("attention.key_length_swa")
    made: dict[str, Any] = {
        "head_dim": sliding_dim,
        "global_head_dim": dim,
        "num_key_value_heads": kv_of.get("sliding_attention", kv[0]),
        "num_global_key_value_heads": kv_of.get("full_attention") if k_eq_v else None,
        "attention_k_eq_v": k_eq_v,
        "intermediate_size": widths[0],
        "use_double_wide_mlp": double,
        "num_kv_shared_layers": shared,
        "sliding_window": keys.number("attention.sliding_window"),
        "layer_types": kinds,
        "hidden_size_per_layer_input": keys.number("embedding_length_per_layer_input", 0),
        "rope_parameters": {
            "full_attention": _full_rope(keys, dim),
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.get("rope.freq_base_swa", 10_000.0)},
        },
    }
    if keys.number("rope.dimension_count_swa", sliding_dim) != sliding_dim:
        raise ConfigError(f"{file.path}: sliding layers that turn part of their dimensions are not supported")
    table = file.tensors.get("per_layer_token_embd.weight")
    if table is not None:
        made["vocab_size_per_layer_input"] = table.shape[0]
    experts = keys.number("expert_count", 0)
    if experts:
        made |= {
            "enable_moe_block": True,
            "num_experts": experts,
            "top_k_experts": keys.number("expert_used_count"),
            "moe_intermediate_size": keys.number("expert_feed_forward_length"),
        }
    return made


def _full_rope(keys: GgufKeys, dim: int) -> dict[str, Any]:
    """Which part of the full layers' dimensions turns is kept as divisors of the frequencies."""
    theta = keys.need("rope.freq_base")
    part, path = 1.0, keys.file.path
    freqs = keys.file.tensors.get("rope_freqs.weight")
    if freqs is not None:
        if freqs.dtype != "F32" or freqs.shape != (dim // 2,):
            raise ConfigError(f"{path}: rope_freqs.weight is {freqs.dtype} {list(freqs.shape)}, not F32 [{dim // 2}]")
        divisors = np.fromfile(freqs.path, dtype="<f4", count=dim // 2, offset=freqs.offset)
        turning = int((divisors == 1).sum())
        if not (divisors[:turning] == 1).all() or not (divisors[turning:] >= UNROTATED).all():
            raise ConfigError(f"{path}: rope_freqs.weight scales frequencies, which Gemma 4 does not: not supported")
        part = turning / (dim // 2)
    elif keys.arch != DRAFTER:
        raise ConfigError(
            f"{path} lacks rope_freqs.weight, which says what part of the full layers turns; take a newer file"
        )
    return {"rope_type": "proportional", "partial_rotary_factor": part, "rope_theta": theta}
