"""Target and drafter configurations from a checkpoint's config.json; Gemma 3's through `config_gemma3`, GGUF's
metadata through `config_gguf`.

Both layouts load alike: the published one (``global_head_dim``, ``num_global_key_value_heads``) and the one
transformers 5.17.0 saves (``per_layer_config`` with zero-padded keys); nested under ``text_config`` or flat.
A field that would change the arithmetic into something we do not compute is refused, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geminate.errors import ConfigError
from geminate.families.gemma3.config import GEMMA3_TYPES, in_common_terms
from geminate.families.raw_config import raw_config, raw_generation
from geminate.plan.config import (
    AssistantConfig,
    CheckpointDtype,
    GenerationDefaults,
    LayerConfig,
    LayerKind,
    MoeConfig,
    RopeConfig,
    TargetConfig,
)

TARGET_TYPES = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text", *GEMMA3_TYPES)
ASSISTANT_TYPES = ("gemma4_assistant", "gemma4_unified_assistant")


def kind_of(config: Mapping[str, Any]) -> Literal["target", "assistant"]:
    """Whether a config.json describes a target or a drafter.

    Raises:
        ConfigError: neither.
    """
    model_type = config.get("model_type")
    if model_type in TARGET_TYPES:
        return "target"
    if model_type in ASSISTANT_TYPES:
        return "assistant"
    known = ", ".join((*TARGET_TYPES, *ASSISTANT_TYPES))
    raise ConfigError(f"model_type {model_type!r} is not supported; known: {known}")


def load_target_config(
    source: Path | Mapping[str, Any], *, embed_scale_dtype: CheckpointDtype | None = None
) -> TargetConfig:
    """The target's configuration from a directory, a GGUF file or a parsed config.json.

    Args:
        embed_scale_dtype: round embedding scales to this dtype instead of the checkpoint's.

    Raises:
        ModelNotFoundError, ConfigError: see their messages.
    """
    raw: Mapping[str, Any] = raw_config(source) if isinstance(source, Path) else source
    if kind_of(raw) != "target":
        raise ConfigError(f"model_type {raw['model_type']!r} is a drafter; name the target, and this with --drafter")
    generation = raw_generation(source) if isinstance(source, Path) else {}
    gemma3 = raw["model_type"] in GEMMA3_TYPES
    return _text_config(in_common_terms(raw) if gemma3 else raw, generation, embed_scale_dtype, gemma3=gemma3)


def load_assistant_config(source: Path | Mapping[str, Any]) -> AssistantConfig:
    """The drafter's configuration from a directory, a GGUF file or a parsed config.json.

    Raises:
        ModelNotFoundError, ConfigError: see their messages.
    """
    raw: Mapping[str, Any] = raw_config(source) if isinstance(source, Path) else source
    if kind_of(raw) != "assistant":
        raise ConfigError(
            f"model_type {raw['model_type']!r} is not a drafter; expected one of {', '.join(ASSISTANT_TYPES)}"
        )
    nested = dict(_section(raw))
    if nested.get("num_kv_shared_layers") not in (None, 0, nested.get("num_hidden_layers")):
        raise ConfigError("a drafter whose layers compute their own K and V is not supported (all are shared)")
    nested["num_kv_shared_layers"] = _integer(nested, "num_hidden_layers")
    for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input"):
        nested[name] = nested.get(name) or 0
        if nested[name]:
            raise ConfigError(f"a drafter with {name} {nested[name]} is not supported (0 expected)")
    if nested.get("enable_moe_block") or nested.get("use_double_wide_mlp"):
        raise ConfigError("a drafter with experts or double-wide MLPs is not supported")
    generation = raw_generation(source) if isinstance(source, Path) else {}
    merged = {**raw, "text_config": nested}
    text = _text_config(merged, generation, None, drafter=True)
    centroids = _integer(raw, "num_centroids", 2048)
    ordered = bool(raw.get("use_ordered_embeddings", False))
    top_k = _integer(raw, "centroid_intermediate_top_k", 32)
    if ordered and (centroids <= 0 or text.vocab_size % centroids or not 0 < top_k <= centroids):
        raise ConfigError(
            f"centroid head: {centroids} clusters, top {top_k}, do not divide a vocabulary of {text.vocab_size}"
        )
    return AssistantConfig(
        model_type=str(raw["model_type"]),
        text=text,
        backbone_hidden_size=_integer(raw, "backbone_hidden_size"),
        use_ordered_embeddings=ordered,
        num_centroids=centroids,
        centroid_top_k=top_k,
    )


def _section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    text = raw.get("text_config", raw)
    if not isinstance(text, Mapping):
        raise ConfigError("text_config in config.json is not an object")
    return text


def _integer(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"config.json: {name} must be a non-negative integer, not {value!r}")
    return value


def _positive(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = _integer(raw, name, default)
    if value == 0:
        raise ConfigError(f"config.json: {name} must be positive")
    return value


def _number(raw: Mapping[str, Any], name: str, default: float, *, positive: bool = True) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"config.json: {name} must be a number, not {value!r}")
    if value < 0 or (positive and value == 0):
        raise ConfigError(f"config.json: {name} must be {'positive' if positive else 'at least 0'}, not {value!r}")
    return float(value)


def _refuse_unknown_arithmetic(text: Mapping[str, Any], *, gemma3: bool) -> None:
    if text.get("attention_bias"):
        raise ConfigError("attention_bias true is not supported: Gemma checkpoints have none")
    activation = text.get("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise ConfigError(f"hidden_activation {activation!r} is not supported (gelu_pytorch_tanh is)")
    direction = text.get("use_bidirectional_attention")
    if direction not in (None, "vision"):
        raise ConfigError(f"use_bidirectional_attention {direction!r} is not supported: text is decoded causally")
    for name in ("attn_logit_softcapping", "query_pre_attn_scalar", "rope_scaling", "quantization_config"):
        value = text.get(name)
        # What `geminate quantize` wrote says so; its tensors say the rest.
        if name == "quantization_config" and isinstance(value, Mapping) and value.get("quant_method") == "geminate":
            continue
        if value is not None and not (gemma3 and name == "query_pre_attn_scalar"):
            raise ConfigError(f"config.json sets {name}, which would change the arithmetic: not supported")


def _ropes(text: Mapping[str, Any]) -> dict[str, RopeConfig]:
    defaults: dict[str, dict[str, Any]] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    }
    given = text.get("rope_parameters") or defaults
    if not isinstance(given, Mapping):
        raise ConfigError("rope_parameters in config.json is not an object")
    ropes: dict[str, RopeConfig] = {}
    for kind in defaults:
        entry = given.get(kind)
        if not isinstance(entry, Mapping):
            raise ConfigError(f"rope_parameters has no entry for {kind}")
        rope_type = entry.get("rope_type", "default")
        if rope_type not in ("default", "linear", "proportional"):
            raise ConfigError(f"rope_type {rope_type!r} of {kind} is not supported")
        part = _number(entry, "partial_rotary_factor", 1.0, positive=False)
        if part > 1 or (rope_type == "linear" and part < 1):
            raise ConfigError(f"partial_rotary_factor {part} of {kind}, which is {rope_type}, is not supported")
        factor = _number(entry, "factor", 1.0)
        if rope_type == "default" and factor != 1:
            raise ConfigError(
                f"{kind} has factor {factor}, but rope_type default, which scales nothing; did you mean linear?"
            )
        ropes[kind] = RopeConfig(
            rope_type=rope_type,
            theta=_number(entry, "rope_theta", defaults[kind]["rope_theta"]),
            partial_rotary_factor=part,
            factor=factor,
        )
    return ropes


def _layer_kinds(text: Mapping[str, Any], count: int, *, last_full: bool) -> list[LayerKind]:
    kinds = text.get("layer_types")
    if kinds is None:
        kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(count)]
    if not isinstance(kinds, list):
        raise ConfigError("layer_types in config.json is not a list")
    kinds = list(kinds)
    if len(kinds) != count:
        raise ConfigError(f"layer_types has {len(kinds)} entries for {count} layers")
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise ConfigError(f"layer type {kind!r} is not supported")
    if last_full:
        kinds[-1] = "full_attention"  # as transformers forces it
    return kinds


PER_LAYER = ("head_dim", "num_key_value_heads")


def _overrides(text: Mapping[str, Any], count: int) -> dict[int, Mapping[str, Any]] | None:
    """``per_layer_config`` by layer index, or None for the published layout, which has none.

    An empty object is not an absent one: transformers saves {} where every layer is as the global fields say.
    """
    if "per_layer_config" not in text:
        return None
    given = text["per_layer_config"] or {}
    if not isinstance(given, Mapping):
        raise ConfigError("per_layer_config in config.json is not an object")
    found: dict[int, Mapping[str, Any]] = {}
    for key, entry in given.items():
        if not str(key).isdecimal() or int(key) >= count or not isinstance(entry, Mapping):
            raise ConfigError(f"per_layer_config entry {key!r} is not an object for one of {count} layers")
        for name in entry:
            if name not in PER_LAYER and entry[name] != text.get(name):
                raise ConfigError(f"per_layer_config sets {name} of layer {key}: not supported")
        found[int(key)] = entry
    return found


def _layers(text: Mapping[str, Any], *, drafter: bool, gemma3: bool) -> tuple[LayerConfig, ...]:
    count = _positive(text, "num_hidden_layers")
    kinds = _layer_kinds(text, count, last_full=not gemma3)
    heads = _positive(text, "num_attention_heads")
    kv_heads = _positive(text, "num_key_value_heads")
    head_dim = _positive(text, "head_dim", 256)
    width = _positive(text, "intermediate_size")
    k_eq_v = bool(text.get("attention_k_eq_v", False))
    shared = _integer(text, "num_kv_shared_layers", 0)
    if shared > count or (shared == count and not drafter):
        raise ConfigError(f"num_kv_shared_layers {shared} leaves no layer of {count} to compute K and V")
    first_shared = count - shared
    overrides = _overrides(text, count)
    layers: list[LayerConfig] = []
    dims: dict[LayerKind, int] = {}
    for i, kind in enumerate(kinds):
        full = kind == "full_attention"
        dim, kv = head_dim, kv_heads
        if overrides is not None:
            dim = _positive(overrides.get(i, {}), "head_dim", head_dim)
            kv = _positive(overrides.get(i, {}), "num_key_value_heads", kv_heads)
        elif full:
            dim = _positive(text, "global_head_dim", 512)
            if k_eq_v and text.get("num_global_key_value_heads") is not None:
                kv = _positive(text, "num_global_key_value_heads")
        if heads % kv or dim % 2:
            raise ConfigError(f"layer {i}: {heads} heads over {kv} KV heads, head_dim {dim}: must divide")
        if dims.setdefault(kind, dim) != dim:
            raise ConfigError(f"layer {i}: head_dim {dim}, but {dims[kind]} in the {kind} layers before it")
        is_shared = i >= first_shared
        donor = i
        if is_shared and not drafter:
            donors = [j for j in range(first_shared) if kinds[j] == kind]
            if not donors:
                raise ConfigError(f"layer {i} shares {kind} K/V, but no layer before {first_shared} computes any")
            donor = donors[-1]
            if layers[donor].kv_heads != kv:
                raise ConfigError(f"layer {i}: {kv} KV heads, but layer {donor}, whose K/V it reads, has others")
        double = bool(text.get("use_double_wide_mlp")) and is_shared and first_shared > 0
        layers.append(
            LayerConfig(
                index=i,
                kind=kind,
                heads=heads,
                kv_heads=kv,
                head_dim=dim,
                window=0 if full else _positive(text, "sliding_window", 512),
                k_eq_v=k_eq_v and full,
                kv_shared=is_shared,
                kv_donor=donor,
                intermediate=width * 2 if double else width,
                query_scale=_number(text, "query_pre_attn_scalar", 1.0) ** -0.5 if gemma3 else 1.0,
                v_norm=not gemma3,
                layer_scalar=not gemma3,
            )
        )
    return tuple(layers)


def _rounded_sqrt(value: int, dtype: CheckpointDtype) -> float:
    root = np.float32(math.sqrt(value))
    if dtype == "float16":
        return float(np.float16(root))
    if dtype == "bfloat16":
        bits = int(root.view(np.uint32))
        bits += 0x7FFF + ((bits >> 16) & 1)
        return float(np.uint32(bits & 0xFFFF0000).view(np.float32))
    return float(root)


def _dtype(raw: Mapping[str, Any], text: Mapping[str, Any]) -> CheckpointDtype:
    for source in (raw, text):
        for name in ("dtype", "torch_dtype"):
            value = str(source.get(name) or "").removeprefix("torch.")
            if value in ("bfloat16", "float16", "float32"):
                return value  # type: ignore[return-value]
            if value:
                raise ConfigError(f"dtype {value!r} is not supported (bfloat16, float16, float32 are)")
    return "float32"


def _eos_ids(text: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    value = generation.get("eos_token_id", text.get("eos_token_id", 1))
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) for i in ids):
        raise ConfigError(f"eos_token_id must be an integer or a list of integers, not {value!r}")
    return tuple(ids)


def _text_config(
    raw: Mapping[str, Any],
    generation: Mapping[str, Any],
    embed_scale_dtype: CheckpointDtype | None,
    *,
    drafter: bool = False,
    gemma3: bool = False,
) -> TargetConfig:
    text = _section(raw)
    for section in (raw, text):  # quantization_config stands beside text_config in nested files
        _refuse_unknown_arithmetic(section, gemma3=gemma3)
    dtype = _dtype(raw, text)
    scale_dtype = embed_scale_dtype or dtype
    hidden = _positive(text, "hidden_size")
    vocab = _positive(text, "vocab_size", 262_144)
    unified = "unified" in str(raw.get("model_type"))
    # Unified text models drop the per-layer embeddings from their configuration class altogether.
    ple_dim = 0 if unified else _integer(text, "hidden_size_per_layer_input", 256)
    moe = None
    if text.get("enable_moe_block"):
        moe = MoeConfig(
            num_experts=_positive(text, "num_experts"),
            top_k=_positive(text, "top_k_experts"),
            intermediate=_positive(text, "moe_intermediate_size"),
        )
        if moe.top_k > moe.num_experts:
            raise ConfigError(f"top_k_experts {moe.top_k} of {moe.num_experts} experts")
    capped = text.get("final_logit_softcapping") is not None and not drafter
    if raw.get("tie_word_embeddings", text.get("tie_word_embeddings", True)) is False:
        raise ConfigError("tie_word_embeddings false is not supported: Gemma ties its head")
    return TargetConfig(
        model_type=str(raw.get("model_type")),
        vocab_size=vocab,
        hidden_size=hidden,
        layers=_layers(text, drafter=drafter, gemma3=gemma3),
        rms_norm_eps=_number(text, "rms_norm_eps", 1e-6, positive=False),
        softcap=_number(text, "final_logit_softcapping", 30.0) if capped else None,
        embed_scale=_rounded_sqrt(hidden, scale_dtype),
        ple_dim=ple_dim,
        ple_vocab=_integer(text, "vocab_size_per_layer_input", vocab) if ple_dim else 0,
        ple_scale=_rounded_sqrt(ple_dim, scale_dtype) if ple_dim else 0.0,
        rope=_ropes(text),
        max_position_embeddings=_positive(text, "max_position_embeddings", 131_072),
        moe=moe,
        eos_token_ids=_eos_ids(text, generation),
        dtype=dtype,
        norm_unit_offset=gemma3,
        generation=GenerationDefaults(
            do_sample=generation.get("do_sample"),
            temperature=generation.get("temperature"),
            top_k=generation.get("top_k"),
            top_p=generation.get("top_p"),
            num_assistant_tokens=generation.get("num_assistant_tokens"),
        ),
    )
