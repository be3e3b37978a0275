"""Gemma 3 in GGUF: tensor names, and metadata in the field names of config.json.

Keys and their meaning as in llama.cpp (conversion/gemma.py and src/models/gemma3.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geminate.checkpoint.gguf_file import GgufFile
from geminate.checkpoint.gguf_tensors import GgufNames
from geminate.errors import ConfigError
from geminate.families.gemma3.dialect import DIALECT
from geminate.families.gguf_keys import GgufKeys, common_text, layer_kinds, mlp_width

LARGEST = 62  # layers of the 27B, whose queries are scaled by hidden / heads instead of head_dim
_TENSORS = {"token_embd.weight": "embed_tokens", "output.weight": "lm_head", "output_norm.weight": "norm"}
_LAYERS = {
    "attn_norm.weight": "input_layernorm", "post_attention_norm.weight": "post_attention_layernorm",
    "ffn_norm.weight": "pre_feedforward_layernorm", "post_ffw_norm.weight": "post_feedforward_layernorm",
    "attn_q.weight": "self_attn.q_proj", "attn_k.weight": "self_attn.k_proj", "attn_v.weight": "self_attn.v_proj",
    "attn_output.weight": "self_attn.o_proj", "attn_q_norm.weight": "self_attn.q_norm",
    "attn_k_norm.weight": "self_attn.k_norm", "ffn_gate.weight": "mlp.gate_proj", "ffn_up.weight": "mlp.up_proj",
    "ffn_down.weight": "mlp.down_proj",
}  # fmt: skip
NAMES = GgufNames(tensors=_TENSORS, layers=_LAYERS, other=("rope_freqs.weight",), whole_norms=True)


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """What config.json would say.

    Raises:
        ConfigError: metadata that is missing or contradictory.
    """
    keys = GgufKeys(file)
    text = common_text(keys, DIALECT.turn_ends)
    text |= _text(keys, text, text["num_hidden_layers"])
    # Gemma is published in bfloat16, and its embedding scale is rounded to that whatever the file's own types are.
    return {"model_type": "gemma3_text", "dtype": "bfloat16", "text_config": text}


def _text(keys: GgufKeys, text: Mapping[str, Any], count: int) -> dict[str, Any]:
    dim = keys.number("attention.key_length")
    if keys.number("attention.value_length", dim) != dim:
        raise ConfigError(f"{keys.file.path}: keys and values of different width are not supported")
    window = keys.number("attention.sliding_window", 0)
    scaling = keys.get("rope.scaling.type", "none")
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": keys.need("rope.freq_base")}
    if scaling == "linear":
        full |= {"rope_type": "linear", "factor": keys.need("rope.scaling.factor")}
    elif scaling != "none":
        raise ConfigError(f"{keys.file.path}: rope scaling {scaling!r} is not supported")
    heads = text["num_attention_heads"]
    return {
        "head_dim": dim,
        "num_key_value_heads": keys.number("attention.head_count_kv"),
        "intermediate_size": mlp_width(keys, count),
        "query_pre_attn_scalar": text["hidden_size"] // max(1, heads) if count == LARGEST else dim,
        "sliding_window": window or 1,
        "layer_types": layer_kinds(keys, count, 6) if window else ["full_attention"] * count,
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.get("rope.freq_base_swa", 10_000.0)},
        },
    }
