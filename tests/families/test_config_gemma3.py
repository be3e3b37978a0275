"""Gemma 3's configurations against transformers 5.17.0, both layouts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from geminate.errors import ConfigError, DrafterMismatchError
from geminate.families.registry import kind_of, load_assistant_config, load_target_config
from geminate.plan.config import TargetConfig
from geminate.runtime.compatibility import check_fit
from geminate.tools.train.checkpoint import scratch_config
from support.agreement import nonsense_is_refused
from support.fabricate_gemma3 import LINEAR, SIZES, drafter_text, text_settings

# What the published gemma-3-4b-it leaves to the class's defaults: nearly everything.
SPARSE = {
    "model_type": "gemma3", "eos_token_id": [1, 106], "torch_dtype": "bfloat16", "vision_config": {},
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024},
}  # fmt: skip


def flat(size: str = "1B", **changes: Any) -> dict[str, Any]:
    return {**text_settings(size), "model_type": "gemma3_text", **changes}


def same(ours: TargetConfig, ref: Gemma3TextConfig) -> None:
    assert [layer.kind for layer in ours.layers] == ref.layer_types
    rotary = Gemma3RotaryEmbedding(ref)
    for layer in ours.layers:
        assert (layer.heads, layer.kv_heads, layer.head_dim) == (
            ref.num_attention_heads,
            ref.num_key_value_heads,
            ref.head_dim,
        )
        assert layer.window == (ref.sliding_window if layer.kind == "sliding_attention" else 0)
        assert layer.query_scale == ref.query_pre_attn_scalar**-0.5
        assert layer.intermediate == ref.intermediate_size and layer.kv_donor == layer.index
        assert not (layer.v_norm or layer.layer_scalar or layer.kv_shared or layer.k_eq_v)
    for kind in set(ref.layer_types):
        want = getattr(rotary, f"{kind}_inv_freq").numpy()
        np.testing.assert_array_max_ulp(ours.inv_freq(kind), want, maxulp=2)
    assert (ours.vocab_size, ours.hidden_size, ours.softcap) == (
        ref.vocab_size,
        ref.hidden_size,
        ref.final_logit_softcapping,
    )
    assert ours.norm_unit_offset and ours.ple_dim == 0 and ours.moe is None
    assert ours.max_position_embeddings == ref.max_position_embeddings


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sliding_window_pattern": 2, "rope_theta": 5e5},
        {"layer_types": ["full_attention", "sliding_attention"] * 4},  # goes before the pattern
        {"layer_types": ["sliding_attention"] * 8},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}, "rope_theta": 2e6},
        {"rope_parameters": {"sliding_attention": LINEAR | {"rope_theta": 3e4}}, "rope_scaling": None},
        {"rope_parameters": {"full_attention": {"type": "linear", "factor": 4.0, "rope_theta": 1e5}}},
        {"rope_local_base_freq": 5e4},
    ],
)
def test_layouts(size: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """The same file, read by transformers, by us, and by us as transformers saves it."""
    raw = flat(size, **changes)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ref = AutoConfig.from_pretrained(tmp_path)
    same(load_target_config(tmp_path), ref)
    nested = {"model_type": "gemma3", "text_config": {**raw, "model_type": "gemma3_text"}, "vision_config": {}}
    assert load_target_config(nested).layers == load_target_config(raw).layers
    assert kind_of(raw) == kind_of(nested) == "target"
    ref.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "rope_scaling" not in saved and saved["rope_parameters"].keys() == {"full_attention", "sliding_attention"}
    same(load_target_config(saved), ref)


def test_fields_left_to_defaults() -> None:
    config = load_target_config(SPARSE)
    same(config, Gemma3TextConfig(**SPARSE["text_config"]))  # type: ignore[arg-type]
    assert (config.vocab_size, config.layers[0].heads, config.layers[0].kv_heads) == (262_208, 8, 4)
    assert config.eos_token_ids == (1, 106) and config.dtype == "bfloat16"
    assert config.rope["full_attention"].factor == 8.0 and config.rope["sliding_attention"].factor == 1.0
    assert load_target_config({**SPARSE, "text_config": {**SPARSE["text_config"], "vocab_size": 64}}).vocab_size == 64  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "decoded causally"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be positive"),
        ({"query_pre_attn_scalar": None}, "query_pre_attn_scalar must be a positive number, not null"),
        ({"sliding_window": None}, "sliding_window must be"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern must be"),
        ({"num_hidden_layers": 10**9}, "at most 10,000"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"rope_scaling": {"type": "linear", "factor": 8.0}}, "names no rope_type"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"rope_type": "default", "factor": 8.0}}, "did you mean linear"),
        ({"rope_parameters": {"full_attention": LINEAR | {"partial_rotary_factor": 0.5}}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": LINEAR}, "rope_parameters has rope_type, factor"),
        ({"rope_local_base_freq": -1}, "rope_theta must be positive"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers, which Gemma 3 does not have"),
        ({"enable_moe_block": True}, "enable_moe_block"),
        ({"hidden_size_per_layer_input": 8}, "hidden_size_per_layer_input"),
    ],
)
def test_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_target_config(flat(**changes))


def assistant(size: str, **text: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4_assistant",
        "text_config": {**drafter_text(size), **text},
        "backbone_hidden_size": text_settings(size)["hidden_size"],
    }


@pytest.mark.parametrize("size", SIZES)
def test_a_drafter_must_rotate_as_its_target(size: str) -> None:
    target = load_target_config(flat(size))
    check_fit(target, load_assistant_config(assistant(size)))
    ropes = drafter_text(size)["rope_parameters"]
    for kind, entry in ropes.items():
        for wrong in ({"rope_type": "linear", "factor": 2.0}, {"rope_theta": 12_345.0}):
            other = {**ropes, kind: {**entry, **wrong}}
            with pytest.raises(DrafterMismatchError, match=f"rope of {kind} .* in the drafter, .* in the target"):
                check_fit(target, load_assistant_config(assistant(size, rope_parameters=other)))
    with pytest.raises(DrafterMismatchError, match=r"rope of full_attention .*proportional"):  # Gemma 4's default
        check_fit(target, load_assistant_config(assistant(size, rope_parameters=None)))


def test_the_same_frequencies_under_another_name_fit() -> None:
    ropes = drafter_text("4B")["rope_parameters"]
    same_rope = {"rope_type": "proportional", "partial_rotary_factor": 1.0, "factor": 8.0, "rope_theta": 1e6}
    drafter = load_assistant_config(assistant("4B", rope_parameters={**ropes, "full_attention": same_rope}))
    check_fit(load_target_config(flat("4B")), drafter)


@pytest.mark.parametrize("size", SIZES)
def test_a_drafter_made_from_scratch_fits(size: str) -> None:
    raw = flat(size)
    target = load_target_config(raw)
    sizes: dict[str, Any] = {"hidden": None, "layers": None, "heads": None, "intermediate": None}
    drafter = load_assistant_config(scratch_config(target, raw, centroid_head=True, **sizes))
    check_fit(target, drafter)
    assert np.array_equal(drafter.text.inv_freq("full_attention"), target.inv_freq("full_attention"))


@pytest.mark.parametrize("size", SIZES)
def test_nonsense_never_escapes_as_another_exception(size: str) -> None:
    ropes = {"full_attention": dict(LINEAR), "sliding_attention": {}}
    base = flat(size, rope_scaling=dict(LINEAR), layer_types=None, rope_parameters=ropes)
    paths: list[tuple[str, ...]] = [(k,) for k in base]
    paths += [("rope_scaling", k) for k in LINEAR] + [("rope_parameters", k) for k in ropes]
    paths += [("rope_parameters", "full_attention", k) for k in (*LINEAR, "rope_theta", "type")]
    nonsense_is_refused(base, paths, lambda raw: [raw, {"model_type": "gemma3", "text_config": raw}])
