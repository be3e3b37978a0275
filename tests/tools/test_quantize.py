"""`geminate quantize`: scales with less error, weights of quantization-aware training, served directories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from geminate import LLM, SamplingParams
from geminate.backends.select import make_backend
from geminate.checkpoint.coded_tensors import CodedEntry, with_coded
from geminate.checkpoint.safetensors_reader import checkpoint_files, read_files
from geminate.errors import ConfigError, DrafterMismatchError, GeminateError, ParameterError, QuantizationError
from geminate.families.registry import load_target_config, open_model
from geminate.formats.rounding import bf16_to_f32, f32_to_bf16, quantize_int4, quantize_int8
from geminate.loading.drafters import find_drafter
from geminate.tools.quantize.importance import channel_importance
from geminate.tools.quantize.run import quantize_model
from geminate.weights.opening import open_weights
from geminate.weights.scale_search import on_int4_grid, quantize_searched
from geminate.weights.specs import expected_tensors
from support import fabricate_gemma3
from support.cli import geminate, refused
from support.fabricate_gguf import to_gguf
from support.mobile import FIXTURES


def bf16(x: np.ndarray) -> np.ndarray:
    return bf16_to_f32(f32_to_bf16(x.astype(np.float32)))


@given(
    seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([1e-4, 0.02, 1.0, 30.0]), low=st.integers(-8, -1),
    high=st.integers(0, 7), sign=st.sampled_from([1, -1]),
)  # fmt: skip
def test_bf16_weights_on_a_grid_give_their_codes_back(seed: int, spread: float, low: int, high: int, sign: int) -> None:
    """Any range of codes, not ggml's -8 alone; scales of both signs. Codes are the originals up to a common factor."""
    rng = np.random.default_rng(seed)
    scale = (sign * spread * rng.uniform(0.1, 1, 40)).astype(np.float16)
    codes = rng.integers(low, high + 1, (40, 32))
    codes[:, 0], codes[:, 1] = low, high
    weights = bf16(scale.astype(np.float32)[:, None] * codes)
    found, scales, right = on_int4_grid(weights)
    assert right.all()
    assert np.array_equal(bf16(scales.astype(np.float32)[:, None] * found), weights)
    if low == -8 and high >= 6:  # no other range of 16 codes holds these ratios
        assert np.array_equal(found, codes)
        np.testing.assert_allclose(scales.astype(np.float32), scale.astype(np.float32), rtol=2**-7)


@given(seed=st.integers(0, 2**32 - 1))
def test_other_weights_lie_on_no_grid(seed: int) -> None:
    weights = bf16(np.random.default_rng(seed).standard_normal((200, 32)) * 0.02)
    assert not on_int4_grid(weights)[2].any()


@given(seed=st.integers(0, 2**32 - 1), weighted=st.booleans(), spread=st.sampled_from([0.0, 1e-9, 0.02, 100.0]))
def test_search_is_never_worse_than_plain(seed: int, weighted: bool, spread: float) -> None:
    rng = np.random.default_rng(seed)
    groups = (spread * rng.standard_t(3, (30, 32))).astype(np.float32)
    importance = rng.exponential(1.0, (1, 32)).astype(np.float32) if weighted else None
    w = np.ones((1, 32)) if importance is None else importance.astype(np.float64)

    def error(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        off = groups.astype(np.float64) - codes.astype(np.float64) * scales.astype(np.float64)[:, None]
        return (w * off * off).sum(axis=1)

    for fmt, plain in (("int8", quantize_int8), ("int4", quantize_int4)):
        codes, scales = plain(groups)
        before = error(codes.astype(np.int64), scales)
        found, better = quantize_searched(groups, fmt, importance)
        assert (error(found, better) <= before * (1 + 1e-5) + 1e-30).all()
        assert found.min() >= (-8 if fmt == "int4" else -127) and found.max() <= (7 if fmt == "int4" else 127)
    if spread == 0.02:
        assert error(found, better).sum() < before.sum(), "int4 gains something"


def dense(store, spec) -> np.ndarray:
    if spec.role == "row_table":
        return store.row_table(spec.name).dequantized_rows(np.arange(spec.shape[0], dtype=np.int32))
    if spec.role in ("matrix", "embedding", "experts"):
        packed = store.matrix(spec.name)
        return np.stack([packed.dequantized(i) for i in range(packed.stack)]).reshape(spec.shape)
    return store.vector(spec.name)


@pytest.mark.parametrize("weights", ["int8", "int4", "int4+"])
@pytest.mark.parametrize("size", ["E2B", "26B-A4B", "g3-4B", "gguf"])
def test_a_quantized_directory_holds_what_was_quantized(
    models: dict[str, Path], tmp_path: Path, size: str, weights: str
) -> None:
    """Kernels get the stored codes, bit for bit; errors are at most plain rounding's; all else is as it was."""
    if size == "g3-4B":
        source = fabricate_gemma3.make_target("4B", tmp_path / "source")
    elif size == "gguf":
        source = to_gguf(fabricate_gemma3.make_target("1B", tmp_path / "g3"), tmp_path / "source.gguf")
    else:
        source = models[size]
    made = quantize_model(source, tmp_path / "q", weights)  # type: ignore[arg-type]
    config, before = load_target_config(tmp_path / "q"), load_target_config(source)
    assert config.layers == before.layers and config.rope == before.rope
    store = open_weights(open_model(tmp_path / "q"), config, "auto", use_cache=False)
    plain = open_weights(open_model(source), before, weights, use_cache=False)  # type: ignore[arg-type]
    exact = open_weights(open_model(source), before, "bf16", use_cache=False)
    entries = {s: e for s, e in open_model(tmp_path / "q").tensors.items() if isinstance(e, CodedEntry)}
    coded = 0
    for spec in expected_tensors(config):
        got = dense(store, spec)
        if spec.role not in ("matrix", "embedding", "experts", "row_table"):
            assert spec.role == "keep" or np.array_equal(got, plain.vector(spec.name)), spec.name
            continue
        entry = next(e for s, e in entries.items() if s.endswith(spec.name))
        assert np.array_equal(entry.rows(0, spec.shape[0]), got), spec.name
        coded += 1
        w = dense(exact, spec).astype(np.float64)
        assert ((got - w) ** 2).sum() <= ((dense(plain, spec) - w) ** 2).sum() * 1.0001, spec.name
        if spec.role != "row_table":
            assert store.matrix(spec.name).format == plain.matrix(spec.name).format
    assert coded == made.searched == len(entries) and made.exact == made.trained == made.weighted == 0


def test_weights_of_quantization_aware_training(models: dict[str, Path], tmp_path: Path) -> None:
    """A bf16 checkpoint on the Q4_0 grid packs as the Q4_0 file does, and is said to."""
    import shutil

    import torch

    shutil.copytree(models["E4B"], tmp_path / "qat")
    tensors = load_torch(tmp_path / "qat" / "model.safetensors")
    for name, t in tensors.items():
        if t.dim() == 2 and t.shape[1] % 32 == 0:
            codes, scales = quantize_int4(t.float().numpy().reshape(t.shape[0], -1, 32))
            on_grid = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
            tensors[name] = torch.from_numpy(on_grid.reshape(t.shape))
    save_torch(tensors, tmp_path / "qat" / "model.safetensors", metadata={"format": "pt"})
    file = to_gguf(tmp_path / "qat", tmp_path / "m.gguf", T.Q4_0)
    save_torch({n: t.bfloat16() for n, t in tensors.items()}, tmp_path / "qat" / "model.safetensors")
    config = load_target_config(tmp_path / "qat")
    said: list[str] = []
    ours = open_weights(open_model(tmp_path / "qat"), config, "int4", use_cache=False, on_message=said.append)
    theirs = open_weights(open_model(file), config, "auto", use_cache=False)
    assert any("quantization-aware" in line for line in said)
    for spec in expected_tensors(config):
        if spec.role in ("matrix", "embedding") and spec.shape[1] % 32 == 0:
            a, b = ours.matrix(spec.name), theirs.matrix(spec.name)
            assert np.array_equal(a.planes["codes"], b.planes["codes"]), spec.name
            assert np.array_equal(bf16(dense(ours, spec)), bf16(dense(theirs, spec)))
    quiet: list[str] = []
    open_weights(open_model(models["E4B"]), config, "int4", use_cache=False, on_message=quiet.append)
    assert not any("quantization-aware" in line for line in quiet)
    assert quantize_model(tmp_path / "qat", tmp_path / "q", "int4").trained > 10


def test_importance_is_the_mean_square_of_what_enters(models: dict[str, Path]) -> None:
    config = load_target_config(models["E2B"])
    store = open_weights(open_model(models["E2B"]), config, "bf16")
    parts = [np.random.default_rng(i).integers(3, 500, 45).astype(np.int32) for i in range(2)]
    found = channel_importance(config, store, make_backend(1), parts)
    specs = {s.name: s for s in expected_tensors(config) if s.role in ("matrix", "embedding")}
    assert set(found) == set(specs)
    for name, values in found.items():
        assert values.shape == (specs[name].shape[1],) and values.min() > 0
    llm = LLM(str(models["E2B"]), drafter=None, weights="bf16")
    taps: dict[str, list[np.ndarray]] = {}
    for part in parts:
        llm.pair.target.logits(part, 16, taps)
    square = (np.concatenate(taps["norm"]).astype(np.float64) ** 2).mean(axis=0)
    np.testing.assert_allclose(found["embed_tokens"], np.maximum(square / square.mean(), 1e-3), rtol=1e-4)


def test_the_command_and_what_it_writes_are_served(tmp_path: Path) -> None:
    text = tmp_path / "c.txt"
    text.write_text("Once upon a time there was a small house by the sea. " * 60)
    out = tmp_path / "q"
    done = geminate(
        "quantize",
        "--weights",
        "int4",
        "--out",
        str(out),
        "--calibration",
        str(text),
        "--json",
        "--calibration-tokens",
        "600",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["weighted"] > 50
    served = geminate("generate", str(out), "Once upon", "-n", "8", "-t", "0", "--json")
    assert served.returncode == 0 and json.loads(served.stdout)["token_ids"]
    info = json.loads(geminate("info", str(out), "--json").stdout)
    assert info["weights"] == "int4" and info["chat_template"]
    refused("quantize", "--weights", "int4", "--out", str(out), says="exists")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.txt", "q"], "nothing half-written stays"


def test_a_gguf_file_becomes_a_directory_with_tokenizer_and_template(models: dict[str, Path], tmp_path: Path) -> None:
    vocab = load_target_config(models["E2B"]).vocab_size
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *"abcdef", "ab", *(f"x{i}" for i in range(vocab - 11))]
    values = {
        "ggml.model": "gemma4", "ggml.tokens": tokens, "ggml.token_type": [3] * 4 + [1] * (vocab - 4),
        "ggml.merges": ["a b"], "ggml.bos_token_id": 2, "ggml.eos_token_id": 1, "ggml.unknown_token_id": 3,
        "ggml.add_space_prefix": False, "chat_template": "{{ bos_token }}{{ messages[0]['content'] }}",
    }  # fmt: skip
    file = to_gguf(models["E2B"], tmp_path / "m.gguf", T.Q4_0, tokenizer=values)
    made = quantize_model(file, tmp_path / "q", "int4")
    assert made.exact + made.searched > 10
    ours, theirs = LLM(str(file), drafter=None, weights="int4"), LLM(str(tmp_path / "q"), drafter=None)
    assert theirs.encode("abcab") == ours.encode("abcab")
    assert theirs.chat_ids([{"role": "user", "content": "fab"}]) == ours.chat_ids([{"role": "user", "content": "fab"}])
    assert theirs.config.eos_token_ids == ours.config.eos_token_ids


def test_what_is_refused(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="can be quantized to"):
        quantize_model(models["E2B"], tmp_path / "q", "bf16")
    with pytest.raises(QuantizationError, match="exists"):
        quantize_model(models["E2B"], models["E2B"], "int4")
    with pytest.raises(QuantizationError, match="cannot write"):
        quantize_model(models["E2B"], Path("/proc/none/q"), "int4")
    with pytest.raises(GeminateError, match="no tokenizer"):
        quantize_model(models["E2B"], tmp_path / "q", "int4", calibration="some text")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geminate.tools.quantize.run.write_safetensors", full)
    with pytest.raises(QuantizationError, match="No space left"):
        quantize_model(models["E2B"], tmp_path / "q", "int4")
    assert list(tmp_path.iterdir()) == []


def test_the_drafter_comes_along(models: dict[str, Path], tmp_path: Path) -> None:
    drafter = find_drafter(models["E2B"], models["E2B"], "auto").path
    assert drafter is not None
    made = quantize_model(models["E2B"], tmp_path / "q", "int4")
    assert made.drafter == tmp_path / "q" / "assistant" and str(drafter) in made.drafter_note
    assert find_drafter(tmp_path / "q", tmp_path / "q", "auto").path == made.drafter
    for name in ("config.json", "model.safetensors"):
        assert (made.drafter / name).read_bytes() == (drafter / name).read_bytes()
    assert made.nbytes == sum(path.stat().st_size for path in made.directory.rglob("*") if path.is_file())
    assert LLM(str(tmp_path / "q")).pair.drafter is not None
    alone = quantize_model(models["E2B"], tmp_path / "r", "int4", drafter=None)
    assert alone.drafter is None and not (tmp_path / "r" / "assistant").exists()


def test_a_gguf_drafter_comes_along(models: dict[str, Path], tmp_path: Path) -> None:
    target = to_gguf(models["E2B"], tmp_path / "m.gguf")
    file = to_gguf(models["E2B"].with_name("E2B-assistant"), tmp_path / "blob")
    (tmp_path / "MTP").mkdir()
    (tmp_path / "MTP" / "mtp-m.gguf").symlink_to(file)
    made = quantize_model(target, tmp_path / "q", "int4")
    found = find_drafter(tmp_path / "q", tmp_path / "q", "auto").path
    assert found == tmp_path / "q" / "assistant" / "mtp-m.gguf" and not found.is_symlink()
    assert found.read_bytes() == file.read_bytes() and made.drafter == found.parent


def test_a_drafter_of_another_size_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DrafterMismatchError, match="backbone size"):
        quantize_model(models["E2B"], tmp_path / "q", "int4", drafter=models["E4B"].with_name("E4B-assistant"))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(models["E2B"], tmp_path / "q", "int4", on_stage=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("drop scales", "no .*scales beside"), ("wrong type", "quantize again"), ("wrong shape", "quantize again"),
        ("infinite", "not finite"),
    ],
)  # fmt: skip
def test_damaged_codes_are_named(models: dict[str, Path], tmp_path: Path, damage: str, says: str) -> None:
    quantize_model(models["E4B"], tmp_path / "q", "int8")
    path = tmp_path / "q" / "model.safetensors"
    tensors = dict(load_file(path))
    base = next(n for n in tensors if n.endswith("o_proj.codes")).removesuffix(".codes")
    scales = tensors[f"{base}.scales"].copy()
    if damage == "drop scales":
        del tensors[f"{base}.scales"]
    elif damage == "wrong type":
        tensors[f"{base}.scales"] = scales.astype(np.float32)
    elif damage == "wrong shape":
        tensors[f"{base}.scales"] = scales[:, :-1].copy()
    else:
        scales[0, 0] = np.inf
        tensors[f"{base}.scales"] = scales
    save_file(tensors, path)
    with pytest.raises(GeminateError, match=says):
        open_weights(open_model(tmp_path / "q"), load_target_config(tmp_path / "q"), "auto", use_cache=False)


def test_scales_alone_are_unexpected(models: dict[str, Path], tmp_path: Path) -> None:
    quantize_model(models["E4B"], tmp_path / "q", "int8")
    path = tmp_path / "q" / "model.safetensors"
    tensors = dict(load_file(path))
    del tensors[next(n for n in tensors if n.endswith("o_proj.codes"))]
    save_file(tensors, path)
    assert any(name.endswith(".scales") for name in with_coded(read_files(checkpoint_files(tmp_path / "q"))))
    with pytest.raises(GeminateError, match=r"misses tensors.*scales"):
        open_weights(open_model(tmp_path / "q"), load_target_config(tmp_path / "q"), "auto", use_cache=False)


def test_quantizations_of_others_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    quantize_model(models["E4B"], tmp_path / "q", "int4")
    raw = json.loads((tmp_path / "q" / "config.json").read_text())
    load_target_config(raw)
    with pytest.raises(ConfigError, match="quantization_config"):
        load_target_config(raw | {"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(ConfigError, match="quantization_config"):
        load_target_config(raw | {"quantization_config": ["geminate"]})


def test_speculation_changes_nothing_in_mixed_formats() -> None:
    llm = LLM(weights="int4+")
    params = SamplingParams(max_tokens=40, temperature=0.8, seed=3)
    outs = [llm.generate("Once upon a time", params, speculation=k)[0].token_ids for k in ("off", 1, 4, "auto")]
    assert llm.pair.target.store.format == "mixed" and outs[1:] == outs[:1] * 3


def test_the_mobile_format_is_not_made_here(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="from training alone"):
        quantize_model(models["E2B"], tmp_path / "out", "mobile")
    with pytest.raises(QuantizationError, match="cannot be quantized further"):
        quantize_model(FIXTURES / "e2b", tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()
