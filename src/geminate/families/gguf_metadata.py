"""A GGUF file's metadata in the field names of config.json, so that one reader checks and understands both.

Keys and their meaning as in llama.cpp (conversion/gemma.py and src/models/gemma3.cpp, gemma4.cpp and
gemma4-assistant.cpp). What the file does not say is what llama.cpp assumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from geminate.checkpoint.gguf_file import GgufFile
from geminate.errors import ConfigError

MODEL_TYPES = {"gemma3": "gemma3_text", "gemma4": "gemma4_text", "gemma4-assistant": "gemma4_assistant"}
# End-of-generation tokens that a file names by their text alone.
ENDS = ("<turn|>", "<end_of_turn>", "<|tool_response>")
LARGEST_GEMMA3 = 62  # layers of the 27B, whose queries are scaled by hidden / heads instead of head_dim
UNROTATED = 1e29  # rope_freqs holds 1 for dimensions that turn and 1e30 for those that do not
MAX_LAYERS = 10_000


class _Keys:
    """Metadata under one architecture's prefix."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.metadata, self.arch = file, file.metadata, file.architecture

    def get(self, name: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{self.arch}.{name}", default)
        return value.tolist() if isinstance(value, np.ndarray) else value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ConfigError(f"{self.file.path} lacks the metadata {self.arch}.{name}; take a newer file")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.need(name) if default is None else self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{self.file.path}: {self.arch}.{name} is {value!r}, not a number of anything")
        return value

    def per_layer(self, name: str, count: int) -> list[int]:
        """One number for all layers, or one each."""
        value = self.need(name)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise ConfigError(f"{self.file.path}: {self.arch}.{name} does not hold one number per layer")
        return values


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """What config.json would say.

    Raises:
        ConfigError: an architecture that is not supported, or metadata that is missing or contradictory.
    """
    if file.architecture not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ConfigError(f"{file.path} has architecture {file.architecture!r}, which is not supported; known: {known}")
    keys = _Keys(file)
    count = keys.number("block_count")
    if not 0 < count <= MAX_LAYERS:
        raise ConfigError(f"{file.path}: {count} layers")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConfigError(f"{file.path} has no token embedding (token_embd.weight): not a whole model")
    text: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": keys.number("embedding_length"),
        "num_hidden_layers": count,
        "num_attention_heads": keys.number("attention.head_count"),
        "max_position_embeddings": keys.number("context_length"),
        "rms_norm_eps": keys.need("attention.layer_norm_rms_epsilon"),
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
        "eos_token_id": _ends(file),
    }
    make: Callable[[_Keys, dict[str, Any], int], dict[str, Any]] = _gemma3 if keys.arch == "gemma3" else _gemma4
    text |= make(keys, text, count)
    # Gemma is published in bfloat16, and its embedding scale is rounded to that whatever the file's own types are.
    raw: dict[str, Any] = {"model_type": MODEL_TYPES[keys.arch], "dtype": "bfloat16", "text_config": text}
    if keys.arch == "gemma4-assistant":
        raw |= {"backbone_hidden_size": keys.number("embedding_length_out"), "use_ordered_embeddings": False}
        centroids = file.tensors.get("masked_embd_centroids.weight")
        if centroids is not None:
            raw |= {"use_ordered_embeddings": True, "num_centroids": centroids.shape[0]}
    return raw


def gguf_generation(file: GgufFile) -> dict[str, Any]:
    """What generation_config.json would say: the sampling a file recommends (``general.sampling``), if it does."""
    found = {
        ours: file.metadata[f"general.sampling.{theirs}"]
        for ours, theirs in (("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p"))
        if f"general.sampling.{theirs}" in file.metadata
    }
    return {"do_sample": True, **found} if found else {}


def _ends(file: GgufFile) -> list[int]:
    found = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        found += [tokens.index(name) for name in ENDS if name in tokens]
    return sorted({i for i in found if isinstance(i, int)})


def _sliding(keys: _Keys, count: int, default: int) -> list[str]:
    """Kinds of the layers: a flag each, or every n-th one full."""
    pattern = keys.get("attention.sliding_window_pattern", default)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        flags = [(i + 1) % pattern != 0 for i in range(count)]
    elif isinstance(pattern, list) and len(pattern) == count:
        flags = [bool(flag) for flag in pattern]
    else:
        raise ConfigError(f"{keys.file.path}: {keys.arch}.attention.sliding_window_pattern does not fit {count} layers")
    return ["sliding_attention" if flag else "full_attention" for flag in flags]


def _width(keys: _Keys, count: int) -> int:
    widths = keys.per_layer("feed_forward_length", count)
    if len(set(widths)) != 1:
        raise ConfigError(f"{keys.file.path}: layers of {sorted(set(widths))} feed-forward widths are not supported")
    return widths[0]


def _gemma3(keys: _Keys, text: Mapping[str, Any], count: int) -> dict[str, Any]:
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
        "intermediate_size": _width(keys, count),
        "query_pre_attn_scalar": text["hidden_size"] // max(1, heads) if count == LARGEST_GEMMA3 else dim,
        "sliding_window": window or 1,
        "layer_types": _sliding(keys, count, 6) if window else ["full_attention"] * count,
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": keys.get("rope.freq_base_swa", 10_000.0)},
        },
    }


def _gemma4(keys: _Keys, text: Mapping[str, Any], count: int) -> dict[str, Any]:
    file = keys.file
    kinds = _sliding(keys, count, 6)
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
    if keys.arch == "gemma4-assistant":  # it has neither; its KV heads say which kind its target is
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


def _full_rope(keys: _Keys, dim: int) -> dict[str, Any]:
    """Which part of the full layers' dimensions turns is kept as divisors of the frequencies."""
    theta = keys.need("rope.freq_base")
    part, path = 1.0, keys.file.path
    freqs = keys.file.tensors.get("rope_freqs.weight")
    if freqs is not None:
        if freqs.dtype != "F32" or freqs.shape != (dim // 2,):
            raise ConfigError(f"{path}: rope_freqs.weight is {freqs.dtype} {list(freqs.shape)}, not F32 [{dim // 2}]")
        divisors = np.fromfile(path, dtype="<f4", count=dim // 2, offset=freqs.offset)
        turning = int((divisors == 1).sum())
        if not (divisors[:turning] == 1).all() or not (divisors[turning:] >= UNROTATED).all():
            raise ConfigError(f"{path}: rope_freqs.weight scales frequencies, which Gemma 4 does not: not supported")
        part = turning / (dim // 2)
    return {"rope_type": "proportional", "partial_rotary_factor": part, "rope_theta": theta}
