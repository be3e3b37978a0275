"""Checkpoints with static activations: what is refused, with the tensor's or the field's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geminate import LLM
from geminate.checkpoint.name_patterns import compiled
from geminate.checkpoint.quantization_config import quantization_scheme
from geminate.errors import ConfigError, GeminateError, ParameterError, WeightsError
from geminate.families.registry import load_target_config
from support.mobile import FIXTURES, Config, Tensors, changed, compressed, copied

UP = "model.layers.0.mlp.up_proj"


def put(name: str, value: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda found: found.update({name: value})


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda found: (found.pop(name), None)[1]


def edit(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Tensors], None]:
    return lambda found: (change(found[name]), None)[1]


def cut(name: str) -> Callable[[Tensors], None]:
    return lambda found: found.update({name: found[name][:, :-1].contiguous()})


def unquantized(found: Tensors) -> None:
    for name in [name for name in found if name.startswith(UP)]:
        del found[name]
    found[f"{UP}.weight"] = torch.zeros(27, 37, dtype=torch.bfloat16)


BROKEN: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "packing width": (cut(f"{UP}.weight"), rf"{UP}\.weight has 18 bytes a row; 37 columns of 4 bits.* take 19"),
    "width of a table": (cut("model.embed_tokens.embedding_quantized"), r"embedding_quantized has 9 bytes"),
    "no scale": (drop(f"{UP}.weight_scale"), rf"{UP} has no weight_scale beside"),
    "no codes": (drop(f"{UP}.weight"), rf"{UP} has no weight beside"),
    "no table": (drop("model.embed_tokens_per_layer.embedding_scale"), r"_per_layer has no embedding_scale"),
    "one activation scale": (drop(f"{UP}.input_activation_scale"), rf"{UP} has no input_activation_scale"),
    "no head": (lambda found: [found.pop(n) for n in list(found) if n.startswith("lm_head")] and None,
                r"misses tensors: lm_head"),
    "NaN scale": (edit(f"{UP}.weight_scale", lambda t: t[3].fill_(float("nan"))), rf"{UP}\.weight_scale holds neg"),
    "negative scale": (edit(f"{UP}.weight_scale", lambda t: t[3].neg_()), rf"{UP}\.weight_scale holds neg"),
    "negative scale of a table": (edit("model.embed_tokens_per_layer.embedding_scale", lambda t: t[5].neg_()),
                                  r"embed_tokens_per_layer\.embedding_scale holds negative"),
    "infinite activation": (put(f"{UP}.input_activation_scale", torch.tensor(float("inf"))),
                            rf"{UP}\.input_activation_scale is inf"),
    "negative activation": (put(f"{UP}.output_activation_scale", torch.tensor(-0.5)),
                            rf"{UP}\.output_activation_scale is -0\.5"),
    "activations by channel": (put(f"{UP}.output_activation_scale", torch.ones(27)), r"one number, not F32 \[27\]"),
    "scales by block": (put(f"{UP}.weight_scale", torch.ones(27, 37)), r"has 37 scales a row; of matrices one"),
    "too few scales": (put(f"{UP}.weight_scale", torch.ones(26, 1)), rf"{UP}\.weight_scale is F32 \[26, 1\]"),
    "blocks that do not divide": (put("model.embed_tokens_per_layer.embedding_scale", torch.ones(96, 4)),
                                  r"embedding_scale has 4 scales for 30 columns"),
    "int8 where 4 bits are named": (put(f"{UP}.weight", torch.zeros(27, 37, dtype=torch.int8)),
                                    rf"{UP}\.weight is I8 .*4 bits, as quantization_config"),
    "plain where 4 bits are named": (unquantized, rf"{UP} has no weight_scale"),
    "codes where none are named": (put("model.per_layer_model_projection.weight", torch.zeros(30, 19).byte()),
                                   r"per_layer_model_projection is stored as weight \(U8\), but"),
    "a bias": (put(f"{UP}.bias", torch.zeros(27)), r"does not know: model\.layers\.0\.mlp\.up_proj\.bias"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_refused(what: str, tmp_path: Path) -> None:
    change, message = BROKEN[what]
    directory = changed("e2b", tmp_path / "m", tensors=change)
    with pytest.raises(WeightsError, match=message) as error:
        LLM(directory, drafter=None, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*")), "nothing half-written stays"


def gemma(**fields: Any) -> Callable[[Config], None]:
    return lambda raw: raw["quantization_config"].update(fields)


FIELDS: dict[str, tuple[Callable[[Config], None], str]] = {
    "bits": (gemma(num_bits=3), r"num_bits must be 2, 4 or 8, not 3"),
    "bits of a module": (gemma(module_quant_configs={"mlp": {"num_bits": True}}), r"2, 4 or 8, not true"),
    "another option": (gemma(module_quant_configs={"mlp": {"group_size": 32}}), r"sets 'group_size'"),
    "another field": (gemma(activation_bits=16), r"quantization_config sets 'activation_bits'"),
    "a slow pattern": (gemma(module_quant_configs={"(.*a)*b": {}}), r"too complex"),
    "an invalid pattern": (gemma(module_quant_configs={"layers[": {}}), r"invalid"),
    "no list": (gemma(modules_to_not_convert="lm_head"), r"modules_to_not_convert must be a list"),
    "bits that do not fit shapes": (lambda raw: raw["quantization_config"]["module_quant_configs"].update(
        {r"model\.embed_tokens_per_layer$": {"num_bits": 2}}),
        r"embed_tokens_per_layer\.embedding_quantized has 15 bytes a row; 30 columns of 2 bits"),
}  # fmt: skip


@pytest.mark.parametrize("what", FIELDS)
def test_fields_are_honoured_or_refused(what: str, tmp_path: Path) -> None:
    change, message = FIELDS[what]
    directory = changed("e2b", tmp_path / "m", config=change)
    with pytest.raises(GeminateError, match=message):
        LLM(directory, drafter=None, use_cache=False)


GROUPS: dict[str, tuple[Callable[[Config], None], str]] = {
    "asymmetric": (lambda q: q["config_groups"]["group_1"]["weights"].update(symmetric=False), r"symmetric is false"),
    "dynamic": (lambda q: q["config_groups"]["group_1"]["input_activations"].update(dynamic=True), r"dynamic is true"),
    "by token": (lambda q: q["config_groups"]["group_1"]["input_activations"].update(strategy="token"), r"strategy is"),
    "floats": (lambda q: q["config_groups"]["group_1"]["weights"].update(type="float"), r"type is 'float'"),
    "bits": (lambda q: q["config_groups"]["group_1"]["weights"].update(num_bits=3), r"num_bits is 3"),
    "kv cache": (lambda q: q.update(kv_cache_scheme={"num_bits": 8}), r"sets 'kv_cache_scheme'"),
    "order": (lambda q: q["config_groups"]["group_1"]["weights"].update(actorder="group"), r"actorder is 'group'"),
    "format": (lambda q: q["config_groups"]["group_1"].update(format="marlin-24"), r"format 'marlin-24' is not supp"),
}  # fmt: skip


@pytest.mark.parametrize("what", GROUPS)
def test_groups_are_honoured_or_refused(what: str, tmp_path: Path) -> None:
    import json

    directory = compressed("e2b", tmp_path / "m")
    raw = json.loads((directory / "config.json").read_text())
    change, message = GROUPS[what]
    change(raw["quantization_config"])
    with pytest.raises(ConfigError, match=message):
        quantization_scheme(raw)


def test_a_module_that_no_group_names_must_be_plain(tmp_path: Path) -> None:
    import json

    directory = compressed("e2b", tmp_path / "m")
    raw = json.loads((directory / "config.json").read_text())
    groups = raw["quantization_config"]["config_groups"]
    groups["group_1"]["targets"] = [t for t in groups["group_1"]["targets"] if t != UP]
    (directory / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match=rf"{UP} is stored as .*weight_packed"):
        LLM(directory, drafter=None, use_cache=False)


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4", "int4+"])
def test_other_formats_are_refused(weights: str) -> None:
    with pytest.raises(ParameterError, match=r"static int8 activations.*leave --weights at auto"):
        LLM(FIXTURES / "e2b", drafter=None, weights=weights, use_cache=False)  # type: ignore[arg-type]


def test_mobile_needs_such_a_checkpoint(models: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="by training only"):
        LLM(models["E2B"], drafter=None, weights="mobile", use_cache=False)


def test_an_embedding_scale_is_not_rounded(tmp_path: Path) -> None:
    def bfloat16(raw: Config) -> None:
        raw["dtype"] = "bfloat16"

    config = load_target_config(changed("e2b", tmp_path / "m", config=bfloat16))
    assert config.embed_scale == float(np.float32(37**0.5)) and not config.tied_head


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|aa)*b", r"a*b*c*d*", r"(x)\1", r"(?P<n>a)(?P=n)", "a" * 300, 7, ""]
)
def test_patterns_that_may_take_long(pattern: object) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        compiled(pattern, "here")


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        (r"language_model\.layers\.(\d|1[0-4])\.mlp\.", "model.language_model.layers.14.mlp.up_proj", True),
        (r"language_model\.layers\.(\d|1[0-4])\.mlp\.", "model.language_model.layers.15.mlp.up_proj", False),
        (r"audio_tower(?!.*lconv1d\.linear_start)", "model.audio_tower.layers.0.x", True),
        (r"^lm_head$", "lm_head", True),
    ],
)
def test_published_patterns_are_read(pattern: str, name: str, found: bool) -> None:
    assert bool(compiled(pattern, "here").search(name)) == found


def test_the_first_pattern_decides() -> None:
    scheme = quantization_scheme({"quantization_config": {
        "quant_method": "gemma", "quantize_embeddings": True,
        "modules_to_not_convert": ["per_layer_model_projection", "a.b"],
        "module_quant_configs": {r"layers\.(\d|1[0-4])\.mlp\.": {"num_bits": 4}, r"layers\.\d+\.mlp\.": {"num_bits": 2},
                                 "attn": {}},
        "num_bits": 8}})  # fmt: skip
    assert scheme is not None
    bits = {name: scheme.bits(name, "Linear") for name in (
        "layers.3.mlp.up_proj", "layers.15.mlp.up_proj", "layers.1.attn.q", "other", "x.per_layer_model_projection",
        "a.b.c", "a.bc")}  # fmt: skip
    assert list(bits.values()) == [4, 2, 8, 8, None, None, 8]


def test_without_a_list_the_head_stays_as_it_is() -> None:
    scheme = quantization_scheme({"quantization_config": {"quant_method": "gemma"}})
    assert scheme is not None and scheme.bits("lm_head", "Linear") is None
    assert scheme.bits("model.embed_tokens", "Embedding") is None and scheme.bits("model.layers.0.x", "Linear") == 4


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    ids = [5, 7, 9]
    a = LLM(copied("e4b", tmp_path / "m"), drafter=None, use_cache=False).logits(ids)
    assert np.array_equal(a, LLM(FIXTURES / "e4b", drafter=None, use_cache=False).logits(ids))
