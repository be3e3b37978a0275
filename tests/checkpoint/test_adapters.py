"""LoRA adapters: merged as PEFT defines it, or refused with the name of what stands in the way."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geminate import LLM, SamplingParams
from geminate.checkpoint.adapter import read_adapters
from geminate.checkpoint.packed_file import PackedFile
from geminate.errors import ConfigError, GeminateError, ModelNotFoundError, ParameterError, WeightsError
from geminate.families.registry import load_target_config, open_model
from geminate.loading.identity import kv_identity
from geminate.loading.pairing import pairing, weights_mark
from geminate.tools.pack import pack_model
from geminate.weights.opening import open_weights
from support.adapters import MODULES, make_adapter, merged
from support.cli import geminate, refused
from support.coded import coded
from support.fabricate_gguf import to_gguf
from support.mobile import FIXTURES

IDS = [5, 7, 9, 300, 2, 11]
UP = "model.layers.0.mlp.up_proj"


def tensors_of(base: Path, *adapters: str | Path) -> dict[str, torch.Tensor]:
    entries = open_model(base, read_adapters(adapters)).tensors
    return {name: torch.from_numpy(entry.rows(0, entry.shape[0])) for name, entry in entries.items() if entry.shape}


def close(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> int:
    """How many tensors differ in some bit; none by more than a few units in the last place of its largest number."""
    different = 0
    for name, value in want.items():
        if value.dim() == 2:
            assert (got[name] - value).abs().max() <= 4e-7 * value.abs().max(), name
            different += not torch.equal(got[name], value)
    return different


CASES: dict[str, tuple[dict[str, Any], float]] = {
    "LoRA": ({}, 2.0),
    "rsLoRA": ({"use_rslora": True}, 8 / math.sqrt(4)),
    "DoRA": ({"use_dora": True}, 2.0),
    "rank 7": ({"rank": 7, "alpha": 3}, 3 / 7),
    "fan in, fan out": ({"fan_in_fan_out": True}, 2.0),
    "a pattern of modules": ({"target_modules": r"(?:.*?(?:text).*?(?:self_attn|mlp).*?)|(?:\bmodel\.layers.*)"}, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_what_is_merged(what: str, models: dict[str, Path], tmp_path: Path) -> None:
    fields, scale = CASES[what]
    adapter = make_adapter(models["E4B"], tmp_path / "a", **fields)
    base = load_file(models["E4B"] / "model.safetensors")
    close(tensors_of(models["E4B"], adapter), merged(base, adapter, scale))
    half = merged(base, adapter, scale / 2)
    close(tensors_of(models["E4B"], f"{adapter}=0.5"), half)


def test_alphas_by_pattern(models: dict[str, Path], tmp_path: Path) -> None:
    fields = {"alpha_pattern": {"layers.0.mlp.up_proj": 40, r"layers\.\d+\.mlp.up_proj": 20}, "rank_pattern": {"x": 3}}
    adapter = make_adapter(models["E4B"], tmp_path / "a", **fields)
    base, got = load_file(models["E4B"] / "model.safetensors"), tensors_of(models["E4B"], adapter)
    for module, scale in ((UP, 10), ("model.layers.10.mlp.up_proj", 5), ("model.layers.0.mlp.gate_proj", 2)):
        name = f"{module}.weight"
        close({name: got[name]}, {name: merged(base, adapter, scale)[name]})


def test_several_in_their_order(models: dict[str, Path], tmp_path: Path) -> None:
    base = load_file(models["E4B"] / "model.safetensors")
    one = make_adapter(models["E4B"], tmp_path / "one", exact=True)
    two = make_adapter(models["E4B"], tmp_path / "two", exact=True, seed=6, modules=("up_proj",), rank=2)
    want = merged(merged(base, one, 2.0), two, -2.0)
    got = tensors_of(models["E4B"], one, f"{two}=-0.5")
    assert close(got, want) == 0


def test_the_whole_model(models: dict[str, Path], tmp_path: Path) -> None:
    """Merged by torch and saved, or merged while loading: the same logits in every format."""
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    shutil.copytree(models["E4B"], tmp_path / "m")
    save_file(merged(load_file(models["E4B"] / "model.safetensors"), adapter, 2.0), tmp_path / "m/model.safetensors")
    for weights in ("bf16", "int8", "int4"):
        plain = LLM(tmp_path / "m", drafter=None, weights=weights, use_cache=False).logits(IDS)
        assert np.array_equal(LLM(models["E4B"], adapter=adapter, drafter=None, weights=weights).logits(IDS), plain)
        assert not np.array_equal(LLM(models["E4B"], drafter=None, weights=weights).logits(IDS), plain)


def test_packed_weights_belong_to_their_adapters(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    cache = tmp_path / "cache"

    def packed(*adapters: str | Path) -> Any:
        source = open_model(models["E4B"], read_adapters(adapters))
        return open_weights(source, source.target_config(), "int8", cache_dir=cache)

    packed(), packed(adapter), packed(f"{adapter}=0.5")
    assert len(list(cache.glob("*.geminate"))) == 3
    assert packed().from_cache and packed(adapter).from_cache and packed(f"{adapter}=0.5").from_cache
    found = load_file(adapter / "adapter_model.safetensors")
    save_file({name: value * 2 for name, value in found.items()}, adapter / "adapter_model.safetensors")
    assert packed().from_cache and not packed(adapter).from_cache


def test_packed_files(models: dict[str, Path], tmp_path: Path) -> None:
    """Merged while a file is packed, or into the weights of one: never passed over."""
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    want = LLM(models["E4B"], adapter=adapter, drafter=None, weights="int8", use_cache=False).logits(IDS)
    pack_model(models["E4B"], tmp_path / "m.geminate", drafter=None, weights="int8", adapters=[adapter])
    shutil.rmtree(adapter)
    assert np.array_equal(LLM(tmp_path / "m.geminate", drafter=None, use_cache=False).logits(IDS), want)
    assert PackedFile.open(tmp_path / "m.geminate").parts["target"].about["adapters"] == [{"name": "a", "weight": 1.0}]
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    pack_model(models["E4B"], tmp_path / "base.geminate", drafter=None, weights="bf16")
    for weights in ("auto", "int8"):
        plain = LLM(tmp_path / "base.geminate", drafter=None, weights=weights, use_cache=False).logits(IDS)
        both = LLM(tmp_path / "base.geminate", adapter=adapter, drafter=None, weights=weights, use_cache=False).logits(
            IDS
        )
        assert not np.array_equal(both, plain)


def test_identities(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(models["E4B"], tmp_path / "a")
    with_it = LLM(models["E4B"], adapter=adapter, use_cache=False)
    without = LLM(models["E4B"], use_cache=False)
    assert with_it.pair.source is not None and without.pair.source is not None
    assert weights_mark(with_it.pair.source) != weights_mark(without.pair.source)
    assert kv_identity(with_it.pair) != kv_identity(without.pair)
    note = pairing(with_it.pair)
    assert note is not None and note.matched is False and "train drafter --adapter" in note.note
    params = SamplingParams(max_tokens=12, seed=1)
    texts = [with_it.generate(IDS, params, speculation=k)[0].token_ids for k in ("off", 4)]
    assert texts[0] == texts[1]


def test_whole_weights(models: dict[str, Path], tmp_path: Path) -> None:
    norm, gate = torch.full((64,), 1.25), torch.randn(96, 64).bfloat16()
    more = {"model.norm.weight": norm, "model.layers.3.mlp.gate_proj.weight": gate}
    adapter = make_adapter(models["E4B"], tmp_path / "a", modules=("up_proj",), more=more, modules_to_save=["norm"])
    got = tensors_of(models["E4B"], adapter)
    assert torch.equal(got["model.norm.weight"], norm)
    assert torch.equal(got["model.layers.3.mlp.gate_proj.weight"], gate.float())
    with pytest.raises(ConfigError, match=r"whole weights .*weight 0\.5 cannot scale"):
        read_adapters([f"{adapter}=0.5"])
    again = make_adapter(models["E4B"], tmp_path / "b", modules=(), more=more)
    with pytest.raises(WeightsError, match=r"b holds whole weights of model\.(norm|layers).*and so does"):
        tensors_of(models["E4B"], adapter, again)
    assert np.isfinite(LLM(models["E4B"], adapter=adapter, drafter=None, use_cache=False).logits(IDS)).all()


def test_tables(models: dict[str, Path], tmp_path: Path) -> None:
    base = load_file(models["E4B"] / "model.safetensors")
    table = base["model.embed_tokens_per_layer.weight"]
    a, b = torch.randint(-2, 3, (3, table.shape[0])) / 4, torch.randint(-2, 3, (table.shape[1], 3)) / 4
    more = {"model.embed_tokens_per_layer.lora_embedding_A": a, "model.embed_tokens_per_layer.lora_embedding_B": b}
    adapter = make_adapter(models["E4B"], tmp_path / "a", modules=(), more=more, rank=3, alpha=6)
    got = tensors_of(models["E4B"], adapter)["model.embed_tokens_per_layer.weight"]
    assert torch.equal(got, table.float() + 2 * (b @ a).T)


def test_tied_embeddings(models: dict[str, Path], tmp_path: Path) -> None:
    base = load_file(models["E4B"] / "model.safetensors")
    table = base["model.embed_tokens.weight"].float() * 1.5
    both = {"model.embed_tokens.weight": table, "lm_head.weight": table.clone()}
    one = {"model.embed_tokens.weight": table}
    cases: list[tuple[dict[str, torch.Tensor], dict[str, Any], str | None]] = [
        (both, {"modules_to_save": ["embed_tokens", "lm_head"]}, None),
        (one, {}, None),  # saved beside the adapter, not trained
        (one, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, None),
        (one, {"modules_to_save": ["embed_tokens"]}, "holds another embed_tokens alone"),
        ({"lm_head.weight": table}, {"modules_to_save": ["lm_head"]}, "holds another lm_head alone"),
        (both | {"lm_head.weight": table * 2}, {"modules_to_save": ["embed_tokens", "lm_head"]}, "lm_head.* differs"),
        ({"lm_head.lora_A.weight": torch.ones(2, 64), "lm_head.lora_B.weight": torch.ones(512, 2)}, {},
         "changes lm_head by itself"),
    ]  # fmt: skip
    for number, (more, fields, message) in enumerate(cases):
        adapter = make_adapter(models["E4B"], tmp_path / str(number), modules=(), more=more, rank=2, **fields)
        if message is None:
            llm = LLM(models["E4B"], adapter=adapter, drafter=None, weights="bf16", use_cache=False)
            matrix = llm.pair.target.store.matrix("embed_tokens").dequantized()
            assert np.array_equal(matrix, table.bfloat16().float().numpy())
        else:
            with pytest.raises(WeightsError, match=message):
                LLM(models["E4B"], adapter=adapter, drafter=None, use_cache=False)


def test_other_bases(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    base = coded(models["E4B"], tmp_path / "gptq", "gptq")
    plain, got = tensors_of(base), tensors_of(base, adapter)
    assert close(got, merged(plain, adapter, 2.0)) == 0
    assert np.isfinite(LLM(base, adapter=adapter, drafter=None, use_cache=False).logits(IDS)).all()
    file = to_gguf(models["E4B"], tmp_path / "m.gguf")
    merged_file = open_model(file, read_adapters([adapter])).tensors["layers.0.mlp.up_proj"]
    stored = open_model(file).tensors["layers.0.mlp.up_proj"]
    parts = load_file(adapter / "adapter_model.safetensors")
    delta = 2 * parts[f"base_model.model.{UP}.lora_B.weight"] @ parts[f"base_model.model.{UP}.lora_A.weight"]
    assert np.array_equal(merged_file.rows(0, 96), stored.rows(0, 96) + delta.numpy())
    device = make_adapter(FIXTURES / "e2b", tmp_path / "d", modules=(), rank=1, more={
        f"{UP}.lora_A.weight": torch.ones(1, 37), f"{UP}.lora_B.weight": torch.ones(27, 1)})  # fmt: skip
    with pytest.raises(WeightsError, match=rf"{UP}: the weights were trained together with static activations"):
        LLM(FIXTURES / "e2b", adapter=device, drafter=None, use_cache=False)


def test_modules_that_the_model_does_not_compute_with(models: dict[str, Path], tmp_path: Path) -> None:
    more = {
        "model.layers.11.self_attn.k_proj.lora_A.weight": torch.ones(2, 64),
        "model.layers.11.self_attn.k_proj.lora_B.weight": torch.ones(9, 2),
        "model.vision_tower.encoder.layers.0.q.lora_A.weight": torch.ones(2, 8),
        "model.vision_tower.encoder.layers.0.q.lora_B.weight": torch.ones(8, 2),
    }
    adapter = make_adapter(models["E4B"], tmp_path / "a", modules=("up_proj",), more=more, rank=2)
    assert np.isfinite(LLM(models["E4B"], adapter=adapter, drafter=None, use_cache=False).logits(IDS)).all()


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type 'IA3' cannot be merged"),
    "experts": ({"target_parameters": ["experts.gate_up_proj"]}, "sets 'target_parameters'"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "sets 'trainable_token_indices'"),
    "layers": ({"layer_replication": [[0, 4]]}, "sets 'layer_replication'"),
    "aLoRA": ({"alora_invocation_tokens": [5]}, "sets 'alora_invocation_tokens'"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights 'pissa_niter_16' changes the base"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq' changes the base"),
    "bias": ({"bias": "lora_only"}, "bias 'lora_only' cannot be merged"),
    "a bias of B": ({"lora_bias": True}, "sets 'lora_bias'"),
    "alpha": ({"lora_alpha": "16"}, "lora_alpha must be a positive number"),
    "rsLoRA": ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
    "a slow pattern": ({"alpha_pattern": {"(a*)*b": 4}}, "alpha_pattern has the pattern .* too complex"),
    "an alpha": ({"alpha_pattern": {"up_proj": None}}, r"alpha_pattern\['up_proj'\] must be a positive number"),
    "DoRA without magnitudes": ({"use_dora": True, "peft_type": "LORA"}, "lora_magnitude_vector are merged"),
}  # fmt: skip


@pytest.mark.parametrize("what", FIELDS)
def test_fields_that_cannot_be_merged(what: str, models: dict[str, Path], tmp_path: Path) -> None:
    fields, message = FIELDS[what]
    adapter = make_adapter(models["E4B"], tmp_path / "a", modules=("up_proj",))
    raw = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(raw | fields))
    with pytest.raises(GeminateError, match=message) as error:
        read_adapters([adapter])
    assert "\n" not in str(error.value) and str(adapter) in str(error.value)


PARTS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "another base": ({f"{UP}.lora_A.weight": torch.ones(4, 65), f"{UP}.lora_B.weight": torch.ones(96, 4)},
                     rf"another base: {UP} is \[96, 65\] there, and \[96, 64\] here"),
    "no such module": ({"model.layers.99.mlp.up_proj.lora_A.weight": torch.ones(4, 64),
                        "model.layers.99.mlp.up_proj.lora_B.weight": torch.ones(96, 4)},
                       r"changes model\.layers\.99\.mlp\.up_proj, which this model does not have"),
    "half of one": ({f"{UP}.lora_A.weight": torch.ones(4, 64)}, rf"{UP} has lora_A; lora_A, lora_B are merged"),
    "ranks": ({f"{UP}.lora_A.weight": torch.ones(4, 64), f"{UP}.lora_B.weight": torch.ones(96, 5)},
              rf"{UP} has lora_A \[4, 64\] and lora_B \[96, 5\], which do not fit"),
    "a bias": ({f"{UP}.bias": torch.ones(96)}, rf"{UP}\.bias \(F32\) cannot be merged"),
    "integers": ({f"{UP}.lora_A.weight": torch.ones(4, 64).int(), f"{UP}.lora_B.weight": torch.ones(96, 4)},
                 r"lora_A\.weight \(I32\) cannot be merged"),
    "NaN": ({f"{UP}.lora_A.weight": torch.full((4, 64), float("nan")), f"{UP}.lora_B.weight": torch.ones(96, 4)},
            rf"makes {UP}\.weight not finite"),
    "experts": ({"model.layers.0.experts.lora_A.weight": torch.ones(4, 64),
                 "model.layers.0.experts.lora_B.weight": torch.ones(96, 4)}, r"changes model\.layers\.0\.experts"),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_tensors_that_cannot_be_merged(what: str, models: dict[str, Path], tmp_path: Path) -> None:
    more, message = PARTS[what]
    adapter = make_adapter(models["E4B"], tmp_path / "a", modules=(), more=more)
    with pytest.raises(GeminateError, match=message) as error:
        LLM(models["E4B"], adapter=adapter, drafter=None, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value) and not list((tmp_path / "cache").glob("*"))


def test_names_and_weights(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(models["E4B"], tmp_path / "a=1", modules=("up_proj",))
    assert [each.weight for each in read_adapters([adapter])] == [1.0]
    assert [each.weight for each in read_adapters([f"{adapter}=-2e-1"])] == [-0.2]
    for named, kind, message in (
        (f"{adapter}=much", ParameterError, "the weight 'much'; it must be a number"),
        (f"{adapter}=inf", ParameterError, "it must be a number"),
        (tmp_path / "none", ModelNotFoundError, "there is no such directory"),
        (models["E4B"], ModelNotFoundError, "it has no adapter_config.json"),
    ):
        with pytest.raises(kind, match=message):
            read_adapters([named])
    with pytest.raises(ParameterError, match="names a directory twice"):
        read_adapters([adapter, f"{adapter}=0.5"])
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"adapter_model\.bin is not read"):
        read_adapters([adapter])


def test_commands(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(models["E4B"], tmp_path / "a", exact=True)
    named = ("--adapter", f"{adapter}=0.5")
    done = geminate("quantize", str(models["E4B"]), *named, "--weights", "int8", "--out", str(tmp_path / "q"))
    assert done.returncode == 0, done.stderr
    want = tensors_of(models["E4B"], f"{adapter}=0.5")[f"{UP}.weight"].numpy()
    assert np.abs(open_model(tmp_path / "q").tensors[UP].rows(0, 96) - want).max() < 0.01 * np.abs(want).max()
    done = geminate("info", str(models["E4B"]), *named)
    assert done.returncode == 0 and "with weight 0.5" in done.stderr and "train drafter --adapter" in done.stdout
    refused("info", str(models["E4B"]), *named, "--adapter", str(tmp_path / "no"), says="no is no adapter")


def test_against_peft(models: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Gemma4ForCausalLM

    def base() -> Any:
        return Gemma4ForCausalLM.from_pretrained(models["E4B"], dtype=torch.float32)

    configs = {
        "lora": {},
        "rslora": {"use_rslora": True, "r": 7},
        "dora": {"use_dora": True},
        "patterns": {
            "rank_pattern": {"up_proj": 3},
            "alpha_pattern": {r"layers\.1\d?\.mlp\.up_proj": 5, "layers.0.mlp.up_proj": 9},
        },
        "regex": {"target_modules": r".*layers\.\d\.(self_attn|mlp)\.(q|up|down)_proj"},
        "saved": {"modules_to_save": ["input_layernorm"], "fan_in_fan_out": True},
    }
    for name, fields in configs.items():
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(MODULES), **fields})
        model = peft.get_peft_model(base(), config)
        generator = torch.Generator().manual_seed(3)
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(tmp_path / name)
        want = peft.PeftModel.from_pretrained(base(), tmp_path / name).merge_and_unload().state_dict()
        got = tensors_of(models["E4B"], tmp_path / name)
        assert {key for key in want if key != "lm_head.weight"} >= set(got) - {"model.layers.0.layer_scalar"}
        close(got, {key: value for key, value in want.items() if key in got})
        assert any(not torch.equal(want[key], value) for key, value in base().state_dict().items()), name
    several = peft.PeftModel.from_pretrained(base(), tmp_path / "lora", adapter_name="lora")
    several.load_adapter(tmp_path / "rslora", adapter_name="rslora")
    several.add_weighted_adapter(["lora", "rslora"], [0.5, -2.0], "both", combination_type="cat")
    several.set_adapter("both")
    want = several.merge_and_unload().state_dict()
    got = tensors_of(models["E4B"], f"{tmp_path / 'lora'}=0.5", f"{tmp_path / 'rslora'}=-2")
    close(got, {key: value for key, value in want.items() if key in got})
    assert load_target_config(models["E4B"]).tied_head
