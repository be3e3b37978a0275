"""Gemma 4's targets and drafters from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geminate.errors import ConfigError
from geminate.families.decoder.config import Traits, decoder_config, text_section
from geminate.families.decoder.fields import DECODER, DRAFTER, Fields
from geminate.plan.config import AssistantConfig, CheckpointDtype, TargetConfig

TARGET_TYPES = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
DRAFTER_TYPES = ("gemma4_assistant", "gemma4_unified_assistant")


def _traits(raw: Mapping[str, Any]) -> Traits:
    # Unified text models drop the per-layer embeddings from their configuration class altogether.
    return Traits(per_layer_inputs="unified" not in str(raw.get("model_type")))


def target_config(
    raw: Mapping[str, Any], generation: Mapping[str, Any], embed_scale_dtype: CheckpointDtype | None
) -> TargetConfig:
    """See `geminate.families.base.Family`."""
    return decoder_config(raw, generation, _traits(raw), embed_scale_dtype=embed_scale_dtype)


def drafter_config(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> AssistantConfig:
    """See `geminate.families.base.Family`."""
    nested = dict(text_section(raw))
    if nested.get("num_kv_shared_layers") not in (None, 0, nested.get("num_hidden_layers")):
        raise ConfigError("a drafter whose layers compute their own K and V is not supported (all are shared)")
    nested["num_kv_shared_layers"] = Fields(nested, DECODER).integer("num_hidden_layers")
    for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input"):
        nested[name] = nested.get(name) or 0
        if nested[name]:
            raise ConfigError(f"a drafter with {name} {nested[name]} is not supported (0 expected)")
    if nested.get("enable_moe_block") or nested.get("use_double_wide_mlp"):
        raise ConfigError("a drafter with experts or double-wide MLPs is not supported")
    merged = {**raw, "text_config": nested}
    text = decoder_config(merged, generation, _traits(raw), drafter=True)
    fields = Fields(raw, DRAFTER)
    centroids = fields.integer("num_centroids")
    ordered = bool(raw.get("use_ordered_embeddings", False))
    top_k = fields.integer("centroid_intermediate_top_k")
    if ordered and (centroids <= 0 or text.vocab_size % centroids or not 0 < top_k <= centroids):
        raise ConfigError(
            f"centroid head: {centroids} clusters, top {top_k}, do not divide a vocabulary of {text.vocab_size}"
        )
    return AssistantConfig(
        model_type=str(raw["model_type"]),
        text=text,
        backbone_hidden_size=fields.integer("backbone_hidden_size"),
        use_ordered_embeddings=ordered,
        num_centroids=centroids,
        centroid_top_k=top_k,
    )
