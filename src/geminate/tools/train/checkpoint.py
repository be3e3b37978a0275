"""Drafters in the Hugging Face layout of Gemma4AssistantForCausalLM: read, made from scratch, written whole or not."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from geminate.errors import TrainingError
from geminate.families.registry import open_model
from geminate.formats.rounding import bf16_to_f32
from geminate.plan.config import RopeConfig, TargetConfig
from geminate.runtime.compatibility import check_fit
from geminate.runtime.drafter import RopePosition
from geminate.tools.train.drafter import Drafter
from geminate.weights.specs import canonical, match

# Names of a state dict that are not transformers' own.
RENAMED = {
    "table": "model.embed_tokens.weight",
    "centroids.weight": "masked_embedding.centroids.weight",
    "token_ordering": "masked_embedding.token_ordering",
}
MIN_CLUSTERS = 16  # fewer make no centroid head
GENERATION = {"is_assistant": True, "num_assistant_tokens": 4, "num_assistant_tokens_schedule": "constant"}


def load_drafter(directory: Path, target: TargetConfig, rope_position: RopePosition) -> tuple[Drafter, dict[str, Any]]:
    """A drafter and its raw config.json.

    Raises:
        GeminateError: not a drafter, damaged, or not this target's.
    """
    source = open_model(directory)
    config = source.drafter_config()
    check_fit(target, config)
    matched = match(source.tensors, config, str(directory)).tensors
    drafter = Drafter(config, rope_position)
    state = {}
    for name, own in drafter.state_dict().items():
        entry = matched[canonical(RENAMED.get(name, name))]
        values = entry.map()
        wide = bf16_to_f32(values) if entry.dtype == "BF16" else np.array(values)
        state[name] = torch.from_numpy(wide).to(own.dtype).reshape(own.shape)
    drafter.load_state_dict(state)
    return drafter, dict(source.raw)


def scratch_config(
    target: TargetConfig,
    raw_target: dict[str, Any],
    *,
    hidden: int | None,
    layers: int | None,
    heads: int | None,
    intermediate: int | None,
    centroid_head: bool,
    centroids: int | None = None,
) -> dict[str, Any]:
    """config.json of a new drafter for ``target``, in the published layout; None picks a size by the target's width.

    The published sizes (E2B 256 wide, 12B and up 1024) suggest the widths; small vocabularies need no centroid head.

    Raises:
        TrainingError: a number of centroids that the head cannot have.
    """
    width = target.hidden_size
    hidden = hidden or (128 if width < 512 else 256 if width < 3072 else 1024)
    kinds = {la.kind: la for la in target.layers if not la.kv_shared}
    sliding, full = kinds.get("sliding_attention"), kinds.get("full_attention")
    some = sliding or full
    assert some is not None
    pattern = [some.kind] * (layers or (2 if width < 512 else 4))
    if full is not None:
        pattern[-1] = "full_attention"
    kv = max(la.kv_heads for la in kinds.values())
    heads = heads or max(4, kv)
    vocab = target.vocab_size
    clusters = _clusters(vocab, centroids)
    ordered = centroid_head and clusters >= MIN_CLUSTERS
    text = raw_target.get("text_config", raw_target)
    ropes = {kind: _rope_entry(rope) for kind, rope in target.rope.items()}
    # Wide full layers with one shared K and V have KV heads of their own in the published drafters as well.
    k_eq_v = full is not None and full.k_eq_v
    return {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": "gemma4_assistant",
        "dtype": "bfloat16",
        "backbone_hidden_size": width,
        "use_ordered_embeddings": ordered,
        "num_centroids": clusters,
        "centroid_intermediate_top_k": max(1, min(32, clusters // 16)),
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "gemma4_text", "dtype": "bfloat16", "vocab_size": vocab,
            "vocab_size_per_layer_input": 0, "hidden_size": hidden, "hidden_size_per_layer_input": 0,
            "intermediate_size": intermediate or (2 if width < 512 else 8) * hidden, "num_hidden_layers": len(pattern),
            "num_attention_heads": heads, "num_key_value_heads": (sliding or some).kv_heads,
            "num_global_key_value_heads": full.kv_heads if k_eq_v and full is not None else None,
            "head_dim": (sliding or some).head_dim, "global_head_dim": (full or some).head_dim,
            "layer_types": pattern, "num_kv_shared_layers": len(pattern), "use_double_wide_mlp": False,
            "attention_k_eq_v": k_eq_v, "enable_moe_block": False, "sliding_window": (sliding or some).window or 512,
            "max_position_embeddings": target.max_position_embeddings, "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": target.rms_norm_eps, "rope_parameters": ropes,
            "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
            "bos_token_id": text.get("bos_token_id", 2), "eos_token_id": 1, "pad_token_id": text.get("pad_token_id", 0),
        },
    }  # fmt: skip


def _clusters(vocab: int, wanted: int | None) -> int:
    """About 128 tokens a cluster, a power of two that divides the vocabulary; 1 for small ones."""
    if wanted is not None:
        if vocab % wanted or wanted < MIN_CLUSTERS:
            raise TrainingError(
                f"--centroids must be at least {MIN_CLUSTERS} and divide the vocabulary of {vocab:,} tokens, "
                f"not {wanted}"
            )
        return wanted
    clusters: int = max(1, 2 ** round(math.log2(vocab / 128)) if vocab >= 1024 else 1)
    while vocab % clusters:
        clusters //= 2
    return clusters


def _rope_entry(rope: RopeConfig) -> dict[str, Any]:
    entry = {"rope_type": rope.rope_type, "rope_theta": rope.theta, "factor": rope.factor}
    if rope.rope_type != "default":
        entry["partial_rotary_factor"] = rope.partial_rotary_factor
    return entry


def tensors_of(drafter: Drafter) -> dict[str, torch.Tensor]:
    """The drafter's tensors under transformers' names."""
    return {RENAMED.get(name, name): tensor for name, tensor in drafter.state_dict().items()}


def save_drafter(drafter: Drafter, raw: dict[str, Any], directory: Path, card: str | None = None) -> None:
    """Write a drafter directory; see `save_model`."""
    save_model(directory, tensors_of(drafter), raw, GENERATION, card)


def save_model(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    card: str | None = None,
) -> None:
    """Write a model in the Hugging Face layout, bfloat16, through a temporary directory: it is whole, or as it was.

    Raises:
        TrainingError: the disk is full or not writable; nothing half-written stays.
    """
    new = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    try:
        for stale in (new, old):
            shutil.rmtree(stale, ignore_errors=True)
        new.mkdir(parents=True)
        made = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in tensors.items()}
        packed = {name: tensor.cpu().contiguous() for name, tensor in made.items()}
        save_file(packed, new / "model.safetensors", metadata={"format": "pt"})
        (new / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner reads
        for name, value in (("config.json", config), ("generation_config.json", generation)):
            (new / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (new / "README.md").write_text(card, encoding="utf-8")
        if directory.exists():
            directory.rename(old)
        os.rename(new, directory)
    except (OSError, SafetensorError) as error:
        if old.exists() and not directory.exists():
            old.rename(directory)
        cause = " ".join(str(error).split())[:300]
        raise TrainingError(f"cannot write the model to {directory}: {cause}; free some space") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
