"""The published shapes of Gemma 4 and its drafters, whole or as a shorter stack of layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geminate.errors import ParameterError
from geminate.families.registry import kind_of, load_assistant_config, load_target_config, open_model
from geminate.loading.drafters import locate_drafter
from geminate.plan.config import AssistantConfig, TargetConfig

COMMON: dict[str, Any] = {
    "model_type": "gemma4_text", "dtype": "bfloat16", "vocab_size": 262144, "head_dim": 256, "global_head_dim": 512,
    "final_logit_softcapping": 30.0, "rms_norm_eps": 1e-6,
}  # fmt: skip

# pattern: sliding layers before each full one. heads: query, KV, KV of full layers.
SHAPES: dict[str, dict[str, Any]] = {
    "gemma-4-E2B": {"hidden_size": 1536, "num_hidden_layers": 35, "pattern": 4, "heads": (8, 1, None),
                    "intermediate_size": 6144, "use_double_wide_mlp": True, "num_kv_shared_layers": 20,
                    "sliding_window": 512, "ple": True, "max_position_embeddings": 131072},
    "gemma-4-E4B": {"hidden_size": 2560, "num_hidden_layers": 42, "pattern": 5, "heads": (8, 2, None),
                    "intermediate_size": 10240, "num_kv_shared_layers": 18, "sliding_window": 512, "ple": True,
                    "max_position_embeddings": 131072},
    "gemma-4-12B": {"hidden_size": 3840, "num_hidden_layers": 48, "pattern": 5, "heads": (16, 8, 1),
                    "intermediate_size": 15360, "attention_k_eq_v": True, "sliding_window": 1024,
                    "max_position_embeddings": 262144},
    "gemma-4-26B-A4B": {"hidden_size": 2816, "num_hidden_layers": 30, "pattern": 5, "heads": (16, 8, 2),
                        "intermediate_size": 2112, "attention_k_eq_v": True, "sliding_window": 1024,
                        "max_position_embeddings": 262144, "enable_moe_block": True, "num_experts": 128,
                        "top_k_experts": 8, "moe_intermediate_size": 704},
    "gemma-4-31B": {"hidden_size": 5376, "num_hidden_layers": 60, "pattern": 5, "heads": (32, 16, 4),
                    "intermediate_size": 21504, "attention_k_eq_v": True, "sliding_window": 1024,
                    "max_position_embeddings": 262144},
}  # fmt: skip

# hidden size, MLP width, query heads of the drafter; everything else follows its target.
DRAFTERS: dict[str, tuple[int, int, int]] = {
    "gemma-4-E2B": (256, 2048, 4), "gemma-4-E4B": (256, 2048, 4), "gemma-4-12B": (1024, 8192, 16),
    "gemma-4-26B-A4B": (1024, 8192, 16), "gemma-4-31B": (1024, 8192, 32),
}  # fmt: skip


def target_dict(name: str) -> dict[str, Any]:
    """config.json of a published target, text part."""
    shape = dict(SHAPES[name])
    pattern, (heads, kv, global_kv), ple = shape.pop("pattern"), shape.pop("heads"), shape.pop("ple", False)
    layers = shape["num_hidden_layers"]
    block = ["sliding_attention"] * pattern + ["full_attention"]
    # Without a value, a configuration has per-layer embeddings of 256; the larger models have none.
    shape |= {"hidden_size_per_layer_input": 256 if ple else 0, "vocab_size_per_layer_input": 262144}
    return (
        COMMON
        | shape
        | {
            "layer_types": block * (layers // len(block)),
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "num_global_key_value_heads": global_kv,
        }
    )


def drafter_dict(name: str) -> dict[str, Any]:
    """config.json of the published drafter of ``name``."""
    target = target_dict(name)
    hidden, width, heads = DRAFTERS[name]
    text = COMMON | {
        "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": 4, "num_kv_shared_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "num_attention_heads": heads,
        "num_key_value_heads": target["num_key_value_heads"], "final_logit_softcapping": None,
        "num_global_key_value_heads": target["num_global_key_value_heads"], "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": target.get("attention_k_eq_v", False), "sliding_window": target["sliding_window"],
        "max_position_embeddings": target["max_position_embeddings"],
    }  # fmt: skip
    return {
        "model_type": "gemma4_assistant", "backbone_hidden_size": target["hidden_size"], "text_config": text,
        "use_ordered_embeddings": hidden == 256, "num_centroids": 2048, "centroid_intermediate_top_k": 32,
    }  # fmt: skip


def block_of(config: TargetConfig) -> int:
    """Layers up to the first of full attention, that one included; all where there is none."""
    kinds = [layer.kind for layer in config.layers]
    return kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds)


def shortened(raw: dict[str, Any], layers: int) -> dict[str, Any]:
    """The same shape with fewer layers: whole blocks from the front, KV sharing in proportion.

    Raises:
        ParameterError: not a whole number of blocks (a block ends with a full-attention layer).
    """
    config = load_target_config(raw)
    kinds, total, block = [layer.kind for layer in config.layers], len(config.layers), block_of(config)
    if layers == total:
        return raw
    if not block <= layers <= total or layers % block:
        raise ParameterError(f"--layers must be a multiple of {block} up to {total}, not {layers}")
    shared = int(raw.get("num_kv_shared_layers") or 0)
    kept = max(block, layers - round(shared * layers / total / block) * block) if shared else layers
    return raw | {
        "num_hidden_layers": layers,
        "layer_types": kinds[:layers],
        "num_kv_shared_layers": layers - kept,
    }


def load_shape(shape: str, layers: int | None) -> tuple[TargetConfig, AssistantConfig | None, int]:
    """Configurations of a published shape, or of a model directory, and its full number of layers.

    Raises:
        GeminateError: neither, or a layer count that does not fit the pattern.
    """
    if shape in SHAPES:
        raw, assistant = target_dict(shape), load_assistant_config(drafter_dict(shape))
    else:
        path = Path(shape)
        if not path.is_dir():
            raise ParameterError(f"{shape!r} is no directory and none of {', '.join(SHAPES)}")
        raw, assistant = json.loads(json.dumps(dict(open_model(path).raw))), None
        if kind_of(raw) != "target":
            raise ParameterError(f"{shape} is a drafter; name a target")
        raw = dict(raw.get("text_config", raw)) | {"model_type": raw["model_type"]}
        drafter = locate_drafter(shape, path, "auto")
        if drafter is not None:
            assistant = load_assistant_config(drafter)
    total = len(load_target_config(raw).layers)
    if layers is not None:
        raw = shortened(raw, layers)
    return load_target_config(raw), assistant, total
