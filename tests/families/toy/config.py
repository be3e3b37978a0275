"""The toy family's config.json, in the field names that `geminate.families.decoder.config` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geminate.families.decoder.config import Traits, decoder_config
from geminate.plan.config import CheckpointDtype, TargetConfig

TRAITS = Traits(last_full=False, query_scalar=True, v_norm=False, layer_scalar=False, norm_unit_offset=True)
NAMES = {
    "n_vocab": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
}


def target_config(
    raw: Mapping[str, Any], generation: Mapping[str, Any], embed_scale_dtype: CheckpointDtype | None
) -> TargetConfig:
    """See `geminate.families.base.Family`."""
    text = {NAMES.get(name, name): value for name, value in raw.items()}
    text |= {"global_head_dim": text["head_dim"], "hidden_size_per_layer_input": 0, "use_bidirectional_attention": None}
    outer = {"model_type": raw["model_type"], "dtype": raw.get("dtype")}
    return decoder_config(outer | {"text_config": text}, generation, TRAITS, embed_scale_dtype=embed_scale_dtype)
