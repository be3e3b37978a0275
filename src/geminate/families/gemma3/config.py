"""Gemma 3's targets from config.json, in the field names that `geminate.families.decoder.config` reads.

Two layouts load alike: the published one (``rope_theta``, ``rope_local_base_freq``, ``rope_scaling``,
``sliding_window_pattern``, many fields left to the class's defaults) and the one transformers 5.17.0 saves
(``rope_parameters`` and ``layer_types``); flat (``gemma3_text``) or nested under ``text_config`` (``gemma3``).
Defaults and precedence as in transformers' Gemma3TextConfig (models/gemma3/configuration_gemma3.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geminate.errors import ConfigError, shown
from geminate.families.decoder.config import Traits, decoder_config
from geminate.families.decoder.fields import MAX_LAYERS
from geminate.plan.config import CheckpointDtype, TargetConfig

TARGET_TYPES = ("gemma3", "gemma3_text")
TRAITS = Traits(last_full=False, query_scalar=True, v_norm=False, layer_scalar=False, norm_unit_offset=True)
# The published 4B states only sizes and the rope scaling; the rest is the class's defaults.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
# Gemma 4's fields: in a Gemma 3 file they would say that it is something else.
FOREIGN = (
    "attention_k_eq_v", "enable_moe_block", "global_head_dim", "hidden_size_per_layer_input", "num_kv_shared_layers",
    "per_layer_config", "use_double_wide_mlp",
)  # fmt: skip
OUTER = ("model_type", "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")


def target_config(
    raw: Mapping[str, Any], generation: Mapping[str, Any], embed_scale_dtype: CheckpointDtype | None
) -> TargetConfig:
    """See `geminate.families.base.Family`."""
    return decoder_config(in_common_terms(raw), generation, TRAITS, embed_scale_dtype=embed_scale_dtype)


def in_common_terms(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same model with ``text_config`` holding ``layer_types``, ``rope_parameters`` per kind, and every default.

    Values are passed on unchecked, for the common reader to check.

    Raises:
        ConfigError: fields that contradict each other, or that would change the arithmetic into another one.
    """
    text = raw.get("text_config", raw)
    if not isinstance(text, Mapping):
        raise ConfigError("text_config in config.json is not an object")
    for name in FOREIGN:
        if text.get(name):
            raise ConfigError(f"config.json sets {name}, which Gemma 3 does not have: not supported")
    if text.get("use_bidirectional_attention"):
        raise ConfigError("use_bidirectional_attention is not supported: text is decoded causally")
    common = {
        **DEFAULTS,
        **text,
        "rope_parameters": _rope_parameters(text),
        "hidden_size_per_layer_input": 0,
        "use_bidirectional_attention": None,
    }
    for name in DEFAULTS:
        if common[name] is None:
            raise ConfigError(f"config.json: {name} must be a positive number, not null")
    common["global_head_dim"] = common["head_dim"]
    if common.get("layer_types") is None:
        common["layer_types"] = _layer_types(text)
    if common.get("eos_token_id") is None:
        common["eos_token_id"] = raw.get("eos_token_id", 1)
    for folded in ("rope_scaling", "rope_theta", "rope_local_base_freq", "sliding_window_pattern"):
        common.pop(folded, None)
    return {name: raw[name] for name in OUTER if name in raw} | {"text_config": common}


def _layer_types(text: Mapping[str, Any]) -> list[str]:
    pattern, count = text.get("sliding_window_pattern", 6), text.get("num_hidden_layers")
    for name, value in (("sliding_window_pattern", pattern), ("num_hidden_layers", count)):
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ConfigError(f"config.json: {name} must be a positive integer, not {shown(value)}")
    assert isinstance(count, int)
    if count > MAX_LAYERS:
        raise ConfigError(f"config.json: num_hidden_layers is {shown(count)}; at most {MAX_LAYERS:,} is supported")
    return ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]


def _rope_parameters(text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """One entry per layer kind; ``rope_scaling`` applies to full-attention layers only."""
    given = text.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ConfigError("rope_parameters in config.json is not an object")
    bases = {
        "full_attention": text.get("rope_theta", 1_000_000.0),
        "sliding_attention": text.get("rope_local_base_freq", 10_000.0),
    }
    if unknown := [str(key) for key in given if key not in bases]:
        raise ConfigError(f"rope_parameters has {', '.join(unknown)[:200]} where only {', '.join(bases)} may stand")
    ropes: dict[str, dict[str, Any]] = {}
    for kind, base in bases.items():
        entry = given.get(kind) or {}
        if not isinstance(entry, Mapping):
            raise ConfigError(f"rope_parameters of {kind} is not an object")
        ropes[kind] = {"rope_type": entry.get("type", "default"), "rope_theta": base, **entry}
    scaling = text.get("rope_scaling")
    if scaling is not None:
        # transformers reads ``rope_type`` alone here: a scaling under the older ``type`` would be dropped unseen.
        if not isinstance(scaling, Mapping) or "rope_type" not in scaling:
            raise ConfigError(
                f"rope_scaling {shown(scaling)} names no rope_type, the one name transformers reads there"
            )
        ropes["full_attention"].update(scaling)
    return ropes
