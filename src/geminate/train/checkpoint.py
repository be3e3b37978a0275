"""Drafters in the Hugging Face layout of Gemma4AssistantForCausalLM: read, made from scratch, written whole or not."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from geminate.config import TargetConfig
from geminate.config_reader import load_assistant_config, read_json
from geminate.errors import TrainingError
from geminate.models.assistant import RopePosition
from geminate.train.drafter import Drafter
from geminate.weights.fit import check_fit
from geminate.weights.safetensors_reader import checkpoint_files

TABLE, CENTROIDS, ORDER = (
    "model.embed_tokens.weight",
    "masked_embedding.centroids.weight",
    "masked_embedding.token_ordering",
)
GENERATION = {"is_assistant": True, "num_assistant_tokens": 4, "num_assistant_tokens_schedule": "constant"}


def load_drafter(directory: Path, target: TargetConfig, rope_position: RopePosition) -> tuple[Drafter, dict[str, Any]]:
    """A drafter and its raw config.json.

    Raises:
        GeminateError: not a drafter, damaged, or not this target's.
    """
    raw = read_json(directory / "config.json")
    config = load_assistant_config(directory)
    check_fit(target, config)
    drafter = Drafter(config, rope_position)
    state: dict[str, torch.Tensor] = {}
    try:
        for path in checkpoint_files(directory):
            state |= load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"cannot read the drafter in {directory}: {error}") from None
    own: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        wide = tensor.float() if tensor.is_floating_point() else tensor.long()
        match name:
            case "model.embed_tokens.weight":
                own["table"] = wide
            case "masked_embedding.centroids.weight" if config.use_ordered_embeddings:
                own["centroids.weight"] = wide
            case "masked_embedding.token_ordering" if config.use_ordered_embeddings:
                own["token_ordering"] = wide
            case _ if name in ("lm_head.weight", CENTROIDS, ORDER):
                continue
            case _:
                own[name] = wide
    try:
        drafter.load_state_dict(own)
    except RuntimeError as error:
        raise TrainingError(f"the drafter in {directory} does not fit its config.json: {_first(error)}") from None
    return drafter, raw


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def scratch_config(
    target: TargetConfig,
    raw_target: dict[str, Any],
    *,
    hidden: int | None,
    layers: int | None,
    heads: int | None,
    intermediate: int | None,
    centroid_head: bool,
) -> dict[str, Any]:
    """config.json of a new drafter for ``target``, in the published layout; None picks a size by the target's width.

    The published sizes (E2B 256 wide, 12B and up 1024) suggest the widths; small vocabularies need no centroid head.
    """
    width = target.hidden_size
    hidden = hidden or (128 if width < 512 else 256 if width < 3072 else 1024)
    layers = layers or (2 if width < 512 else 4)
    kinds = {la.kind: la for la in target.layers if not la.kv_shared}
    sliding, full = kinds.get("sliding_attention"), kinds.get("full_attention")
    some = sliding or full
    assert some is not None
    pattern = ["sliding_attention"] * layers if full is None else ["full_attention"] * layers
    if sliding is not None and full is not None:
        pattern = ["sliding_attention"] * (layers - 1) + ["full_attention"]
    kv = max(la.kv_heads for la in kinds.values())
    heads = heads or max(4, kv)
    vocab = target.vocab_size
    clusters = max(1, 2 ** round(math.log2(vocab / 128)) if vocab >= 1024 else 1)
    while vocab % clusters:
        clusters //= 2
    ordered = centroid_head and clusters >= 16
    text = raw_target.get("text_config", raw_target)
    ropes = {
        kind: {
            "rope_type": rope.rope_type, "rope_theta": rope.theta, "partial_rotary_factor": rope.partial_rotary_factor,
            "factor": rope.factor,
        }
        for kind, rope in target.rope.items()
    }  # fmt: skip
    for entry in ropes.values():
        if entry["rope_type"] == "default":
            del entry["partial_rotary_factor"]
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
            "intermediate_size": intermediate or (2 if width < 512 else 8) * hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": (sliding or some).kv_heads,
            "num_global_key_value_heads": full.kv_heads if k_eq_v and full is not None else None,
            "head_dim": (sliding or some).head_dim, "global_head_dim": (full or some).head_dim,
            "layer_types": pattern, "num_kv_shared_layers": layers, "use_double_wide_mlp": False,
            "attention_k_eq_v": k_eq_v, "enable_moe_block": False, "sliding_window": (sliding or some).window or 512,
            "max_position_embeddings": target.max_position_embeddings, "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": target.rms_norm_eps, "rope_parameters": ropes,
            "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
            "bos_token_id": text.get("bos_token_id", 2), "eos_token_id": 1, "pad_token_id": text.get("pad_token_id", 0),
        },
    }  # fmt: skip


def tensors_of(drafter: Drafter) -> dict[str, torch.Tensor]:
    """The drafter's tensors under transformers' names, bfloat16 and int64."""
    found: dict[str, torch.Tensor] = {}
    renamed = {"table": TABLE, "centroids.weight": CENTROIDS, "token_ordering": ORDER}
    for name, tensor in drafter.state_dict().items():
        wide = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        found[renamed.get(name, name)] = wide.cpu().contiguous()
    return found


def save_drafter(drafter: Drafter, raw: dict[str, Any], directory: Path, card: str | None = None) -> None:
    """Write a drafter directory through a temporary one: it is whole, or as it was.

    Raises:
        TrainingError: the disk is full or not writable; nothing half-written stays.
    """
    new = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    try:
        for stale in (new, old):
            shutil.rmtree(stale, ignore_errors=True)
        new.mkdir(parents=True)
        save_file(tensors_of(drafter), new / "model.safetensors", metadata={"format": "pt"})
        (new / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner reads
        (new / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        (new / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (new / "README.md").write_text(card, encoding="utf-8")
        if directory.exists():
            directory.rename(old)
        os.rename(new, directory)
    except (OSError, SafetensorError) as error:
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise TrainingError(f"cannot write the drafter to {directory}: {_first(error)}; free some space") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
