"""Tiny random Gemma 3 models and drafters for them, made by transformers 5.17.0, in both layouts of config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
)

from support.fabricate import VOCAB, randomise

# One KV head, rows of 80; vision tower and linear rope scaling; a score factor of its own and a soft cap.
SIZES = ("1B", "4B", "27B")
LINEAR = {"rope_type": "linear", "factor": 8.0}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip


def text_settings(size: str) -> dict[str, Any]:
    """Tiny analogue of a size's text_config in the published field names; no size ends in a full layer."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
        "sliding_window": 24, "sliding_window_pattern": 6, "num_hidden_layers": 8,
    }  # fmt: skip
    own: dict[str, Any]
    if size == "1B":
        own = {"hidden_size": 80, "intermediate_size": 88, "num_attention_heads": 4, "num_key_value_heads": 1,
               "head_dim": 16, "query_pre_attn_scalar": 16}  # fmt: skip
    elif size == "4B":
        own = {"hidden_size": 96, "intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4,
               "head_dim": 16, "query_pre_attn_scalar": 16, "rope_scaling": LINEAR}  # fmt: skip
    else:
        own = {"hidden_size": 72, "intermediate_size": 104, "num_attention_heads": 6, "num_key_value_heads": 2,
               "head_dim": 32, "query_pre_attn_scalar": 21, "rope_scaling": LINEAR, "sliding_window_pattern": 3,
               "rope_theta": 500_000.0, "rope_local_base_freq": 20_000.0,
               "final_logit_softcapping": 20.0}  # fmt: skip
    return {**common, **own}


def make_target(
    size: str, directory: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, calm: bool = False, **changes: Any
) -> Path:
    """Save a random target in the layout of transformers 5.17.0; 4B with a vision tower. Returns the directory."""
    settings = text_settings(size) | changes
    model: torch.nn.Module
    if size == "4B":
        config = Gemma3Config(text_config=settings, vision_config=VISION, mm_tokens_per_image=4)
        model = Gemma3ForConditionalGeneration(config)
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**settings))
    randomise(model, seed, calm=calm, unit_offset=True)
    model.to(dtype).save_pretrained(directory)
    return directory


def drafter_text(size: str) -> dict[str, Any]:
    """text_config of a drafter that reads the K and V of `make_target`'s model."""
    target = text_settings(size)
    full = target.get("rope_scaling", {"rope_type": "default"}) | {"rope_theta": target["rope_theta"]}
    sliding = {"rope_type": "default", "rope_theta": target["rope_local_base_freq"]}
    same = ("vocab_size", "sliding_window", "num_key_value_heads", "head_dim", "max_position_embeddings",
            "bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps")  # fmt: skip
    return {name: target[name] for name in same} | {
        "model_type": "gemma4_text", "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3,
        "num_kv_shared_layers": 3, "num_attention_heads": target["num_attention_heads"],
        "global_head_dim": target["head_dim"], "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": sliding, "full_attention": full},
    }  # fmt: skip


def make_drafter(size: str, directory: Path, *, seed: int = 1, text: dict[str, Any] | None = None) -> Path:
    """Save a random drafter that fits `make_target`'s model of the same size."""
    config = Gemma4AssistantConfig(
        text_config={**drafter_text(size), **(text or {})},
        backbone_hidden_size=text_settings(size)["hidden_size"],
        num_centroids=32,
        centroid_intermediate_top_k=6,
        use_ordered_embeddings=size == "1B",
    )
    model = Gemma4AssistantForCausalLM(config)
    randomise(model, seed)
    if config.use_ordered_embeddings:
        model.masked_embedding.token_ordering.copy_(
            torch.randperm(VOCAB, generator=torch.Generator().manual_seed(seed))
        )
    model.save_pretrained(directory)
    return directory


def published(size: str, source: Path, directory: Path) -> Path:
    """Rewrite a directory of `make_target` into a published layout: old field names; 4B with the newer tensor names."""
    directory.mkdir(parents=True, exist_ok=True)
    text = text_settings(size) | {"model_type": "gemma3_text", "attn_logit_softcapping": None}
    tensors = load_file(source / "model.safetensors")
    if size == "4B":
        config: dict[str, Any] = {
            "model_type": "gemma3", "torch_dtype": "float32", "text_config": text, "eos_token_id": [1, 106],
            "vision_config": VISION | {"model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4,
            "architectures": ["Gemma3ForConditionalGeneration"],
        }  # fmt: skip
        tensors = {_new_name(name): t for name, t in tensors.items()}
    else:
        config = text | {"torch_dtype": "float32", "architectures": ["Gemma3ForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _new_name(name: str) -> str:
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{name}"
