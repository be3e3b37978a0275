"""Tiny random models with the features of each published size, made by transformers 5.17.0.

Weights are bfloat16-representable float32; q_norm is scaled by head_dim^-0.5 so that attention is not saturated.
`published` rewrites a saved directory into the published layout: nested config, ``global_head_dim``,
``model.language_model.`` names, unused k/v of KV-shared layers, vision and audio tensors, shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Gemma4UnifiedAssistantConfig,
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedForCausalLM,
    Gemma4UnifiedTextConfig,
)

SIZES = ("E2B", "E4B", "12B", "26B-A4B", "31B")
VOCAB = 512


def pattern(periods: int, sliding: int) -> list[str]:
    """``sliding`` sliding layers and a full one, ``periods`` times."""
    return (["sliding_attention"] * sliding + ["full_attention"]) * periods


def text_settings(size: str) -> dict[str, Any]:
    """Tiny analogue of a size's text_config; K sizes that are no multiples of 32 among them."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB, "head_dim": 16, "global_head_dim": 32, "sliding_window": 24,
        "max_position_embeddings": 512, "final_logit_softcapping": 30.0, "bos_token_id": 2, "eos_token_id": 1,
        "pad_token_id": 0, "rms_norm_eps": 1e-6, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCAB,
    }  # fmt: skip
    if size == "E2B":
        own = {"hidden_size": 72, "intermediate_size": 88, "num_attention_heads": 4, "num_key_value_heads": 1,
               "layer_types": pattern(2, 4), "num_kv_shared_layers": 5, "use_double_wide_mlp": True,
               "hidden_size_per_layer_input": 8}  # fmt: skip
    elif size == "E4B":
        own = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
               "layer_types": pattern(2, 5), "num_kv_shared_layers": 5, "hidden_size_per_layer_input": 16}  # fmt: skip
    elif size == "12B":
        own = {"hidden_size": 80, "intermediate_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2,
               "num_global_key_value_heads": 1, "layer_types": pattern(1, 5), "attention_k_eq_v": True,
               "use_bidirectional_attention": "vision"}  # fmt: skip
    elif size == "26B-A4B":
        own = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
               "num_global_key_value_heads": 1, "layer_types": pattern(1, 3), "attention_k_eq_v": True,
               "enable_moe_block": True, "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 40,
               "use_bidirectional_attention": "vision"}  # fmt: skip
    else:
        own = {"hidden_size": 96, "intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4,
               "num_global_key_value_heads": 2, "layer_types": pattern(1, 5), "attention_k_eq_v": True,
               "use_bidirectional_attention": "vision"}  # fmt: skip
    own["num_hidden_layers"] = len(own["layer_types"])
    settings = {**common, **own}
    if size == "12B":  # the unified classes know neither per-layer embeddings nor experts
        for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input"):
            settings.pop(name)
    return settings


def randomise(model: torch.nn.Module, seed: int, *, calm: bool = False, unit_offset: bool = False) -> None:
    """Random weights, every value bfloat16-representable; ``unit_offset``: norms store w of 1 + w (Gemma 3).

    Float16 keys and values are the one rounding our engine adds, and random layers amplify it: ``calm`` weights let
    the residual dominate, for comparisons against a tight bound; the others let the blocks drown the echo of the
    last token, so that greedy text is varied.
    """
    g = torch.Generator().manual_seed(seed)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, p in state.items():
        if not p.is_floating_point() or "inv_freq" in name or "embed_scale" in name:
            continue
        if name.endswith("layer_scalar"):
            value = 0.8 + 0.4 * torch.rand(p.shape, generator=g)
        elif p.dim() == 1:
            value = 1 + 0.3 * torch.randn(p.shape, generator=g)
            if "post_per_layer_input_norm" in name:
                value = value * 0.2  # its input has 8 or 16 dimensions, whose cancellations it would blow up
            elif calm and ".post_" in name:
                value = value * (0.3 if "attention" in name else 0.6)
            if unit_offset:
                value = value - 1
            elif "q_norm" in name:
                value = value * p.shape[0] ** -0.5
        else:
            # Two of three leading dimensions of fused experts are output sizes: the last is the fan-in.
            value = torch.randn(p.shape, generator=g) * p.shape[-1] ** -0.5
            if p.dim() == 3 and not calm:
                # Alike experts: where routing is nearly a tie, rounding may flip it without changing the text.
                value = 0.15 * value + value[:1]
            if "embed_tokens.weight" in name and not calm:
                value = value * 0.3
            if "per_layer_input_gate" in name:
                value = value * 0.2  # it reads the unnormed residual
        p.data.copy_(value.to(torch.bfloat16).float())


SEEDS = {"E4B": 1}  # with seed 0 its greedy text has fewer than 20 distinct tokens


# Rows that fill the 256 weights of a K-quant block, nearly everywhere.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "global_head_dim": 128,
        "hidden_size_per_layer_input": 128}  # fmt: skip


def make_target(
    size: str,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    calm: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Save a random target of a size's features, some settings changed; returns the directory."""
    settings = text_settings(size) | changes
    model: torch.nn.Module
    if size == "12B":
        model = Gemma4UnifiedForCausalLM(Gemma4UnifiedTextConfig(**settings))
    else:
        model = Gemma4ForCausalLM(Gemma4TextConfig(**settings))
    randomise(model, SEEDS.get(size, 0) if seed is None else seed, calm=calm)
    model.to(dtype).save_pretrained(directory)
    return directory


def make_drafter(size: str, directory: Path, *, seed: int = 1, **changes: Any) -> Path:
    """Save a random drafter that fits `make_target`'s model of the same size."""
    target = text_settings(size)
    text = {k: v for k, v in target.items() if k not in (
        "use_bidirectional_attention", "use_double_wide_mlp", "enable_moe_block", "num_experts", "top_k_experts",
        "moe_intermediate_size", "final_logit_softcapping", "num_kv_shared_layers")}  # fmt: skip
    text |= {
        "hidden_size": 48,
        "intermediate_size": 56,
        "layer_types": pattern(1, 3),
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 4,
    }
    if size != "12B":
        text |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    text |= changes.pop("text", {})
    own = {
        "backbone_hidden_size": target["hidden_size"],
        "num_centroids": 32,
        "centroid_intermediate_top_k": 6,
        "use_ordered_embeddings": size in ("E2B", "E4B"),
        **changes,
    }
    model: torch.nn.Module
    if size == "12B":
        model = Gemma4UnifiedAssistantForCausalLM(
            Gemma4UnifiedAssistantConfig(text_config={**text, "model_type": "gemma4_unified_text"}, **own)
        )
    else:
        model = Gemma4AssistantForCausalLM(
            Gemma4AssistantConfig(text_config={**text, "model_type": "gemma4_text"}, **own)
        )
    randomise(model, seed)
    if own["use_ordered_embeddings"]:
        order = torch.randperm(text["vocab_size"], generator=torch.Generator().manual_seed(seed))
        model.masked_embedding.token_ordering.copy_(order)
    model.generation_config.num_assistant_tokens = 4
    model.save_pretrained(directory)
    return directory


def published(size: str, source: Path, directory: Path, shards: int = 2) -> Path:
    """Rewrite a directory of `make_target` into the layout of the published checkpoints."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = text_settings(size)
    unified = size == "12B"
    config = {
        "model_type": "gemma4_unified" if unified else "gemma4",
        "dtype": "float32",
        "text_config": {"model_type": "gemma4_unified_text" if unified else "gemma4_text", **settings},
        "vision_config": {"model_type": "gemma4_vision"},
        "image_token_id": 3,
    }
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {
        name.replace("model.", "model.language_model.", 1): t
        for name, t in load_file(source / "model.safetensors").items()
    }
    first_shared = settings["num_hidden_layers"] - settings.get("num_kv_shared_layers", 0)
    for i in range(first_shared, settings["num_hidden_layers"]):
        prefix = f"model.language_model.layers.{i}.self_attn"
        for unused in ("k_proj", "v_proj", "k_norm"):
            tensors[f"{prefix}.{unused}.weight"] = torch.zeros(4, 4)
    tensors["model.vision_tower.encoder.layers.0.mlp.linear.weight"] = torch.zeros(8, 8)
    tensors["model.audio_tower.conv.weight"] = torch.zeros(8)
    tensors["model.embed_vision.embedding_projection.weight"] = torch.zeros(8, 8)
    names = sorted(tensors)
    index: dict[str, str] = {}
    for i in range(shards):
        part = {n: tensors[n].contiguous() for n in names[i::shards]}
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, directory / file)
        index |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return directory
