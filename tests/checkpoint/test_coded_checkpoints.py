"""compressed-tensors, GPTQ and AWQ checkpoints: read without a second rounding, or refused with the cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geminate import LLM
from geminate.arrays import F32
from geminate.backends.cpu.program import supported_isas
from geminate.errors import ConfigError, GeminateError, WeightsError
from geminate.families.registry import load_target_config, open_model
from geminate.weights.opening import open_weights
from support.coded import LINEAR, Method, Tensors, coded, grid
from support.mobile import changed

IDS = [5, 7, 9, 300, 2, 11]
UP = "model.layers.0.mlp.up_proj"
CASES: list[tuple[Method, int, int]] = [
    ("packed", 4, 32), ("packed", 4, 128), ("packed", 4, 0), ("packed", 8, 32), ("packed", 8, 0), ("int", 8, 0),
    ("int", 8, 64), ("gptq", 4, 32), ("gptq", 4, 128), ("gptq", 8, 32), ("gptq_v2", 4, 0), ("awq", 4, 32),
    ("awq", 4, 64),
]  # fmt: skip


def logits(directory: Path) -> F32:
    return LLM(directory, drafter=None, use_cache=False).logits(IDS)


@pytest.mark.parametrize(("method", "bits", "group"), CASES)
def test_codes_and_scales_are_those_of_the_file(
    method: Method, bits: int, group: int, models: dict[str, Path], tmp_path: Path
) -> None:
    made = coded(models["E4B"], tmp_path / "m", method, bits=bits, group=group)
    own = coded(models["E4B"], tmp_path / "own", "geminate", bits=bits, group=group)
    source, same = open_model(made).tensors, open_model(own).tensors
    plain = open_model(models["E4B"]).tensors
    seen = 0
    for name, entry in plain.items():
        if not name.endswith(LINEAR):
            continue
        seen += 1
        n, k = entry.shape
        codes, scales = grid(entry.rows(0, n), bits, group)
        wide = np.repeat(scales, group or k, axis=1)[:, :k]
        assert np.array_equal(source[name].rows(0, n), codes.astype(np.float32) * wide), name
        for start, stop in ((0, n), (3, 11), (n - 5, n)):
            for got, want in zip(source[name].codes(start, stop), same[name[:-7]].codes(start, stop), strict=True):
                assert np.array_equal(got, want), name
        assert codes.min() == -(1 << (bits - 1)), "the whole range"
    assert seen > 60
    assert np.array_equal(logits(made), logits(own))


def test_the_lowest_code_of_int8_is_computed_with(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-128, which our quantizer never makes: as stored, and with the same bits on every instruction set."""

    def lowest(found: Tensors) -> None:
        for name in [name for name in found if name.endswith("up_proj.weight")]:
            found[name][:] = -128

    made = coded(models["E4B"], tmp_path / "m", "int", bits=8, group=32, tensors=lowest)
    store = open_weights(open_model(made), load_target_config(made), "auto", use_cache=False)
    up = store.matrix("layers.3.mlp.up_proj")
    assert up.format == "int8"
    scales = open_model(made).tensors["model.layers.3.mlp.up_proj.weight"].codes(0, 96)[1].view(np.float16)
    assert np.array_equal(up.dequantized(), np.repeat(-128 * scales.astype(np.float32), 32, axis=1))
    found = []
    for isa in supported_isas():
        monkeypatch.setenv("GEMINATE_ISA", isa)
        found.append(logits(made))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    monkeypatch.setenv("GEMINATE_ISA", "reference")
    assert np.abs(found[0] - logits(made)).max() < 0.1, "activations are rounded to 8 bits"


def test_formats_and_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    made = coded(models["E4B"], tmp_path / "m", "packed", group=32)
    store = open_weights(open_model(made), load_target_config(made), "auto", use_cache=False)
    assert {store.matrix(f"layers.{i}.mlp.up_proj").format for i in range(12)} == {"int4"}
    assert store.matrix("per_layer_model_projection").format == "int8" and store.format == "mixed"


def test_a_row_scale_in_float32_is_kept(models: dict[str, Path], tmp_path: Path) -> None:
    def odd(found: Tensors) -> None:
        for name in [name for name in found if name.endswith(".weight_scale")]:
            found[name] = found[name].float() * 1.0001

    made = coded(models["E4B"], tmp_path / "m", "packed", bits=8, group=0, tensors=odd)
    entry = open_model(made).tensors[f"{UP}.weight"]
    codes, scales = grid(open_model(models["E4B"]).tensors[f"{UP}.weight"].rows(0, 96), 8, 0)
    assert entry.grid == "q8r"
    assert np.array_equal(entry.rows(0, 96), codes.astype(np.float32) * (torch.from_numpy(scales) * 1.0001).numpy())
    assert np.isfinite(logits(made)).all()


def test_packed_bytes_of_a_device_checkpoint(models: dict[str, Path], tmp_path: Path) -> None:
    """8-bit codes in int32 words have 128 added, with static activations as without."""

    def static(found: Tensors) -> None:
        found |= {name.replace("weight_packed", "input_scale"): torch.tensor([0.05]) for name in list(found)
                  if name.endswith("weight_packed")}  # fmt: skip

    def described(raw: dict[str, Any]) -> None:
        raw["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "strategy": "tensor", "dynamic": False}

    made = coded(models["E4B"], tmp_path / "m", "packed", bits=8, group=0, tensors=static, config=described)
    entry = open_model(made).tensors[f"{UP}.weight"]
    codes, scales = grid(open_model(models["E4B"]).tensors[f"{UP}.weight"].rows(0, 96), 8, 0)
    assert entry.grid == "q8r" and np.array_equal(entry.rows(0, 96), codes.astype(np.float32) * scales)


def test_dynamic_activations_are_rounded_here_anyway(models: dict[str, Path], tmp_path: Path) -> None:
    def described(raw: dict[str, Any]) -> None:
        raw["config_groups"]["group_0"]["input_activations"] = {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True, "observer": None,
        }  # fmt: skip

    made = coded(models["E4B"], tmp_path / "m", "int", bits=8, group=0, config=described)
    assert open_model(made).tensors[f"{UP}.weight"].grid == "int8"


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda found: found.update({name: change(found[name])})


BROKEN: dict[str, tuple[Method, Callable[[Tensors], None], str]] = {
    "asymmetric GPTQ": ("gptq", put(f"{UP}.qzeros", lambda t: t + 1), r"qzeros has zero points other than 8.*asymm"),
    "asymmetric AWQ": ("awq", put(f"{UP}.qzeros", lambda t: t - 1), r"qzeros has zero points other than 8.*asymm"),
    "reordered": ("gptq", put(f"{UP}.g_idx", lambda t: t.flip(0)), r"g_idx puts columns into groups out of their ord"),
    "zeros of the other format": ("gptq_v2", put(f"{UP}.qzeros", lambda t: t - 0x11111111), r"zero points other than"),
    "no scales": ("gptq", lambda found: found.update({"x": found.pop(f"{UP}.scales")}), rf"{UP} has no scales beside"),
    "few scales": ("awq", put(f"{UP}.scales", lambda t: t[:1]), rf"{UP} has qweight, scales and qzeros .* have"),
    "a bias": ("gptq", lambda found: found.update({f"{UP}.bias": torch.ones(96)}), r"bias is not zero"),
    "two lines of scales": ("packed", put(f"{UP}.weight_scale", lambda t: t[:, :1]), r"\[96, 2\] scales"),
    "a wrong shape": ("packed", put(f"{UP}.weight_shape", lambda t: t + 1), r"weight_shape says \[97, 65\]"),
    "a wrong width": ("packed", put(f"{UP}.weight_shape", lambda t: t * torch.tensor([1, 2])), r"are stored as I32"),
    "NaN": ("packed", put(f"{UP}.weight_scale", lambda t: t * float("nan")), r"scales that are not finite"),
    "fine scales": ("packed", put(f"{UP}.weight_scale", lambda t: t.float() * 1.0001), r"float16 does not hold exact"),
    "large scales": ("packed", put(f"{UP}.weight_scale", lambda t: t * 2.0**40), r"float16 does not hold exactly"),
    "zero points": ("packed", lambda found: found.update({f"{UP}.weight_zero_point": torch.zeros(96, 2).int()}),
                    r"has weight_zero_point beside"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_lies_on_no_grid_is_refused(what: str, models: dict[str, Path], tmp_path: Path) -> None:
    method, change, message = BROKEN[what]
    directory = coded(models["E4B"], tmp_path / "m", method, tensors=change)
    with pytest.raises(WeightsError, match=message) as error:
        LLM(directory, drafter=None, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value) and not list((tmp_path / "cache").glob("*"))


def test_scales_below_the_normal_numbers(models: dict[str, Path], tmp_path: Path) -> None:
    """A dead group's scale is rounded to a multiple of 2^-24: that is no reason to refuse a checkpoint."""
    made = coded(models["E4B"], tmp_path / "m", "packed", tensors=put(f"{UP}.weight_scale", lambda t: t * 2.0**-30))
    entry = open_model(made).tensors[f"{UP}.weight"]
    assert np.abs(entry.rows(0, 96)).max() < 1e-6 and np.isfinite(logits(made)).all()


FIELDS: dict[str, tuple[Method, dict[str, Any], str]] = {
    "GPTQ bits": ("gptq", {"bits": 3}, r"bits is 3; supported: 4, 8; of GPTQ, .*bf16 checkpoint"),
    "GPTQ asymmetric": ("gptq", {"sym": False}, r"sym is false"),
    "GPTQ group": ("gptq", {"group_size": 16}, r"group_size is 16; supported: multiples of 32"),
    "GPTQ format": ("gptq", {"checkpoint_format": "marlin"}, r"checkpoint_format is 'marlin'"),
    "GPTQ modules": ("gptq", {"dynamic": {"+:.*up_proj": {"bits": 8}}}, r"sets 'dynamic'"),
    "GPTQ words": ("gptq", {"pack_dtype": "int16"}, r"pack_dtype is 'int16'"),
    "AWQ version": ("awq", {"version": "gemv"}, r"version is 'gemv'; supported: 'gemm'; of AWQ"),
    "AWQ bits": ("awq", {"bits": 8}, r"bits is 8"),
    "another method": ("awq", {"quant_method": "hqq"}, r"quantization_config \('hqq'\): weights quantized that way"),
}  # fmt: skip


@pytest.mark.parametrize("what", FIELDS)
def test_fields_are_honoured_or_refused(what: str, models: dict[str, Path], tmp_path: Path) -> None:
    method, fields, message = FIELDS[what]
    directory = coded(models["E4B"], tmp_path / "m", method, config=lambda raw: raw.update(fields))
    with pytest.raises(ConfigError, match=message):
        LLM(directory, drafter=None, use_cache=False)


def test_reordered_columns_need_their_groups(models: dict[str, Path], tmp_path: Path) -> None:
    def drop(found: Tensors) -> None:
        for name in [name for name in found if name.endswith("g_idx")]:
            del found[name]

    made = coded(models["E4B"], tmp_path / "m", "gptq", tensors=drop, config=lambda raw: raw.update(desc_act=True))
    with pytest.raises(WeightsError, match="has no g_idx"):
        LLM(made, drafter=None, use_cache=False)
    made = coded(models["E4B"], tmp_path / "n", "gptq", tensors=drop)
    assert np.isfinite(logits(made)).all()


@pytest.mark.parametrize("kind", ["mobile", "packed"])
def test_a_lost_configuration_is_named(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    if kind == "mobile":
        made = changed("e2b", tmp_path / "m", config=lambda raw: raw.pop("quantization_config") and None)
    else:
        made = coded(models["E4B"], tmp_path / "m", "packed")
        raw = json.loads((made / "config.json").read_text())
        del raw["quantization_config"]
        (made / "config.json").write_text(json.dumps(raw))
    with pytest.raises(GeminateError, match=r"holds quantized weights .*no quantization_config") as error:
        LLM(made, drafter=None, use_cache=False)
    assert "tie_word" not in str(error.value)


@pytest.mark.parametrize("bits", [4, 8])
def test_against_compressed_tensors_itself(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    from support.coded import parts

    codes, scales = grid(np.random.default_rng(0).standard_normal((6, 72)).astype(np.float32), bits, 32)
    packed = parts("packed", codes, scales, bits, 32)["weight_packed"]
    assert torch.equal(packed, helpers.pack_to_int32(torch.from_numpy(codes.astype(np.int8)), bits))
