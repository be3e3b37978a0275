"""The text part of Gemma 4 E2B and its drafter as plain numbers, for peers that do not have geminate installed."""

from __future__ import annotations

from typing import Any

LAYERS = 35
PATTERN = ["sliding_attention"] * 4 + ["full_attention"]


def text_config(layers: int = LAYERS) -> dict[str, Any]:
    """E2B's config.json, cut to a number of layers that is a multiple of five (for quick trials).

    Raises:
        ValueError: not such a number.
    """
    if layers % 5 or not 5 <= layers <= LAYERS:
        raise ValueError(f"{layers} layers: a multiple of 5 up to {LAYERS} expected")
    return {
        "model_type": "gemma4_text", "dtype": "bfloat16", "vocab_size": 262144, "hidden_size": 1536,
        "num_hidden_layers": layers, "layer_types": PATTERN * (layers // 5), "num_attention_heads": 8,
        "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "intermediate_size": 6144,
        "use_double_wide_mlp": True, "num_kv_shared_layers": 5 * (layers * 4 // 7 // 5), "sliding_window": 512,
        "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "final_logit_softcapping": 30.0,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        },
    }  # fmt: skip


def drafter_config() -> dict[str, Any]:
    """E2B's drafter: four layers that read the target's K and V, a tied head, projections from and to the target."""
    text = text_config()
    text.update({
        "hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "num_kv_shared_layers": 4,
        "use_double_wide_mlp": False, "hidden_size_per_layer_input": 0, "final_logit_softcapping": None,
        "backbone_hidden_size": 1536,
    })  # fmt: skip
    return text
