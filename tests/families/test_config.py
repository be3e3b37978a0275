"""Configurations against transformers 5.17.0, both layouts, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRotaryEmbedding

from geminate.errors import ConfigError
from geminate.families.registry import kind_of, load_assistant_config, load_target_config
from geminate.plan.config import AssistantConfig, TargetConfig
from support.agreement import nonsense_is_refused
from support.fabricate import SIZES, text_settings

FULL_ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
ROPES = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": FULL_ROPE}


def flat(size: str = "E2B", **changes: Any) -> dict[str, Any]:
    return {**text_settings(size), "model_type": "gemma4_text", "rope_parameters": copy.deepcopy(ROPES), **changes}


def theirs(**changes: Any) -> Gemma4TextConfig:
    given = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 6,
             "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size_per_layer_input": 0}  # fmt: skip
    return Gemma4TextConfig(**{**given, **changes})


def same_shape(ours: TargetConfig, ref: Gemma4TextConfig) -> None:
    for layer, kind in zip(ours.layers, ref.layer_types, strict=True):
        want = ref.per_layer_config[layer.index]
        assert (layer.kind, layer.head_dim, layer.kv_heads) == (kind, want.head_dim, want.num_key_value_heads)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 16, "global_head_dim": 32},
        {"head_dim": 32, "global_head_dim": 32},  # saved as an empty per_layer_config
        {"head_dim": 16, "global_head_dim": 32, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"head_dim": 16, "global_head_dim": 16, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"head_dim": 16, "global_head_dim": 32, "num_global_key_value_heads": 1},  # without k_eq_v: not used
        {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 13},
    ],
)
def test_saved_and_published_layouts(changes: dict[str, Any], tmp_path: Path) -> None:
    ref = theirs(**changes)
    ref.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    same_shape(load_target_config(tmp_path), ref)
    padded = {k.zfill(3): v for k, v in saved["per_layer_config"].items()}
    same_shape(load_target_config({**saved, "per_layer_config": padded}), ref)
    published = {**{k: v for k, v in saved.items() if k != "per_layer_config"}, **changes}
    same_shape(load_target_config({"model_type": "gemma4", "text_config": published, "vision_config": {}}), ref)


@pytest.mark.parametrize("dims", [(16, 32), (256, 512), (128, 128)])
@pytest.mark.parametrize(("part", "factor"), [(0.25, 1.0), (0.3, 8.0), (1.0, 1.0)])
def test_rope_frequencies(dims: tuple[int, int], part: float, factor: float) -> None:
    rope = {"rope_type": "proportional", "partial_rotary_factor": part, "rope_theta": 1e6, "factor": factor}
    ref = theirs(
        head_dim=dims[0], global_head_dim=dims[1], rope_parameters={**copy.deepcopy(ROPES), "full_attention": rope}
    )
    ours = load_target_config({**ref.to_dict(), "model_type": "gemma4_text"})
    rotary = Gemma4TextRotaryEmbedding(ref)
    for kind, dim in zip(("sliding_attention", "full_attention"), dims, strict=True):
        got, want = ours.inv_freq(kind), getattr(rotary, f"{kind}_inv_freq").numpy()
        assert got.dtype == np.float32 and len(want) == dim // 2
        assert len(got) == (int(part * dim // 2) if kind == "full_attention" else dim // 2)
        assert not want[len(got) :].any()
        np.testing.assert_array_max_ulp(got, want[: len(got)], maxulp=2)


def test_last_layer_is_full_and_sharing_may_be_zero() -> None:
    config = load_target_config(flat(layer_types=["sliding_attention"] * 10, num_kv_shared_layers=0))
    assert [layer.kind for layer in config.layers] == ["sliding_attention"] * 9 + ["full_attention"]
    assert all(layer.kv_donor == layer.index and not layer.kv_shared for layer in config.layers)
    assert {layer.intermediate for layer in config.layers} == {88}, "double-wide is for KV-shared layers only"


def test_shared_layers_read_the_last_donor_of_their_kind() -> None:
    config = load_target_config(flat("E2B"))
    assert [layer.kv_donor for layer in config.layers] == [0, 1, 2, 3, 4, 3, 3, 3, 3, 4]
    assert [layer.intermediate for layer in config.layers] == [88] * 5 + [176] * 5


@pytest.mark.parametrize("model_type", ["gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"])
def test_target_types(model_type: str) -> None:
    raw = flat("12B", model_type=model_type)
    nested = {"model_type": model_type, "text_config": raw, "vision_config": {}}
    assert load_target_config(raw).layers == load_target_config(nested).layers
    assert kind_of(raw) == "target"


def drafter(**changes: Any) -> dict[str, Any]:
    text = flat("31B", num_hidden_layers=4, layer_types=["sliding_attention"] * 3 + ["full_attention"])
    text |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, **changes.pop("text", {})}
    return {"model_type": "gemma4_assistant", "text_config": text, "backbone_hidden_size": 96, **changes}


def test_drafter() -> None:
    config = load_assistant_config(drafter(text={"final_logit_softcapping": 30.0}))
    assert isinstance(config, AssistantConfig) and config.backbone_hidden_size == 96
    assert all(layer.kv_shared for layer in config.text.layers) and config.text.softcap is None
    assert (config.num_centroids, config.centroid_top_k, config.use_ordered_embeddings) == (2048, 32, False)
    with pytest.raises(ConfigError, match="do not divide a vocabulary of 512"):
        load_assistant_config(drafter(use_ordered_embeddings=True, num_centroids=33))
    with pytest.raises(ConfigError, match="all are shared"):
        load_assistant_config(drafter(text={"num_kv_shared_layers": 2}))
    with pytest.raises(ConfigError, match="num_centroids must be"):
        load_assistant_config(drafter(num_centroids="x"))


def test_generation_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(flat(eos_token_id=7)))
    assert load_target_config(tmp_path).eos_token_ids == (7,)
    said = {"eos_token_id": [1, 106, 50], "temperature": 1.0, "top_k": 64, "top_p": 0.95, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(said | {"num_assistant_tokens": 6}))
    config = load_target_config(tmp_path)
    assert config.eos_token_ids == (1, 106, 50)
    assert (config.generation.top_k, config.generation.do_sample) == (64, True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"use_bidirectional_attention": "all"}, "decoded causally"),
        ({"rope_parameters": {**ROPES, "full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn'"),
        ({"layer_types": ["chunked_attention"] * 10}, "'chunked_attention'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"num_kv_shared_layers": 10}, "leaves no layer"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"per_layer_config": {"0": {"head_dim": 8}}}, "layer 1: head_dim 16, but 8"),
        ({"per_layer_config": {"0": {"sliding_window": 8}}}, "sets sliding_window of layer 0"),
        ({"per_layer_config": {"10": {"head_dim": 8}}}, "entry '10'"),
        ({"per_layer_config": {"9": {"num_key_value_heads": 4}}}, "layer 9: 4 KV heads, but layer 4"),
        ({"enable_moe_block": True, "num_experts": 4, "top_k_experts": 5, "moe_intermediate_size": 8}, "5 of 4"),
    ],
)
def test_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_target_config(flat(**changes))


def test_quantization_beside_the_text_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantization_config"):
        load_target_config({"model_type": "gemma4", "text_config": flat(), "quantization_config": {"bits": 4}})


def test_harmless_fields_are_ignored() -> None:
    plain = load_target_config(flat())
    assert load_target_config(flat(attention_dropout=0.5, use_cache=False, initializer_range=1.0)) == plain
    assert load_target_config(flat(use_bidirectional_attention="vision")) == plain


@pytest.mark.parametrize("size", SIZES)
def test_nonsense_never_escapes_as_another_exception(size: str) -> None:
    base = flat(size, per_layer_config={})
    paths = [(k,) for k in base] + [("rope_parameters", "full_attention", k) for k in (*FULL_ROPE, "factor")]
    nonsense_is_refused(base, [*paths, ("rope_parameters", "full_attention")])
