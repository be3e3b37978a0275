"""A drafter as a GGUF file of the architecture ``gemma4-assistant``: names and metadata.

As llama.cpp's converter writes them (conversion/gemma.py, Gemma4AssistantModel) and its loader reads them
(src/models/gemma4-assistant.cpp). The centroid head is written as well; llama.cpp passes over it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geminate.families.base import DrafterGguf
from geminate.families.gemma4.gguf import DRAFTER, LAYERS, TENSORS, TOP_K
from geminate.plan.config import AssistantConfig


def drafter_gguf(config: AssistantConfig) -> DrafterGguf:
    """Everything but weights and tokenizer."""
    text = config.text
    sliding = [layer.kind == "sliding_attention" for layer in text.layers]
    heads = [layer.kv_heads for layer in text.layers]
    dims = {layer.kind: layer.head_dim for layer in text.layers}
    dim = dims.get("full_attention", text.layers[0].head_dim)
    sliding_dim = dims.get("sliding_attention", dim)
    full = text.rope["full_attention"]
    numbers: dict[str, Any] = {
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "embedding_length_out": config.backbone_hidden_size,
        "embedding_length_per_layer_input": 0,
        "block_count": len(text.layers),
        "nextn_predict_layers": len(text.layers),
        "feed_forward_length": [layer.intermediate for layer in text.layers],
        "attention.head_count": text.layers[0].heads,
        "attention.head_count_kv": heads[0] if len(set(heads)) == 1 else heads,
        "attention.shared_kv_layers": len(text.layers),
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.key_length_swa": sliding_dim,
        "attention.value_length_swa": sliding_dim,
        "attention.sliding_window": max(layer.window for layer in text.layers),
        "attention.sliding_window_pattern": sliding,
        "attention.layer_norm_rms_epsilon": float(text.rms_norm_eps),
        "rope.dimension_count": dim,
        "rope.dimension_count_swa": sliding_dim,
        "rope.freq_base": float(full.theta),
        "rope.freq_base_swa": float(text.rope["sliding_attention"].theta),
    }
    metadata = {f"{DRAFTER}.{key}": value for key, value in numbers.items()}
    if config.use_ordered_embeddings:
        metadata[TOP_K] = config.centroid_top_k
    names = {ours: theirs for theirs, ours in reversed(TENSORS.items())}  # of two names, the first
    for layer in text.layers:
        names |= {f"layers.{layer.index}.{ours}": f"blk.{layer.index}.{theirs}" for theirs, ours in LAYERS.items()}
    turning = int(dim * full.partial_rotary_factor / 2)
    divisors = np.array([1.0] * turning + [1e30] * (dim // 2 - turning), dtype=np.float32)
    return DrafterGguf(architecture=DRAFTER, metadata=metadata, names=names, extra={"rope_freqs.weight": divisors})
