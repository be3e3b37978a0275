"""A GGUF file is the model it was made from: same configuration, same bits of weights, same logits and drafts."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from geminate import LLM
from geminate.backends.select import make_backend
from geminate.checkpoint.gguf_file import TYPES
from geminate.checkpoint.gguf_tensors import GRIDS
from geminate.families.registry import load_assistant_config, load_target_config, open_model
from geminate.loading.compile import compile_target
from geminate.params import SamplingParams
from geminate.plan.batch import Rows
from geminate.weights.opening import open_weights
from support import fabricate, fabricate_gemma3
from support.cli import geminate
from support.fabricate_gguf import to_gguf

PROMPT = [2, 7, 30, 9, 41, 5, 77, 12]


@pytest.fixture(scope="module")
def pairs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """size -> (directory, GGUF file) with the drafter's file beside the latter."""
    root = tmp_path_factory.mktemp("gguf")
    made = {}
    for size in fabricate.SIZES:
        (root / size).mkdir()
        to_gguf(models[size].with_name(f"{size}-assistant"), root / size / "drafter-f32.gguf")
        made[size] = (models[size], to_gguf(models[size], root / size / "m.gguf"))
    for size in fabricate_gemma3.SIZES:
        source = fabricate_gemma3.make_target(size, root / f"g3-{size}")
        (root / f"g3f-{size}").mkdir()
        made[f"g3-{size}"] = (source, to_gguf(source, root / f"g3f-{size}" / "m.gguf"))
    return made


ALL = [*fabricate.SIZES, *(f"g3-{size}" for size in fabricate_gemma3.SIZES)]


@pytest.mark.parametrize("size", ALL)
def test_configuration_is_the_same(pairs: dict[str, tuple[Path, Path]], size: str) -> None:
    directory, file = pairs[size]
    ours = load_target_config(directory, embed_scale_dtype="bfloat16")
    theirs = load_target_config(file)
    # A file says neither which class wrote it nor its first types, and names all its ends of generation.
    same: dict[str, Any] = {"model_type": "", "dtype": "float32", "generation": ours.generation, "eos_token_ids": ()}
    if size == "g3-27B":  # nor the scale of queries, which follows from the shape of the one model that has its own
        same["layers"] = ours.layers
        assert theirs.layers == tuple(dataclasses.replace(la, query_scale=1.0 / math.sqrt(32)) for la in ours.layers)
    assert dataclasses.replace(theirs, **same) == dataclasses.replace(ours, **same)


@pytest.mark.parametrize("size", fabricate.SIZES)
def test_drafter_configuration_is_the_same(pairs: dict[str, tuple[Path, Path]], size: str) -> None:
    directory, file = pairs[size]
    ours = load_assistant_config(directory.with_name(f"{size}-assistant"))
    theirs = load_assistant_config(file.with_name("drafter-f32.gguf"))
    assert theirs.backbone_hidden_size == ours.backbone_hidden_size
    assert theirs.use_ordered_embeddings == ours.use_ordered_embeddings
    assert [dataclasses.replace(la, index=0) for la in theirs.text.layers] == [
        dataclasses.replace(la, index=0) for la in ours.text.layers
    ]
    assert theirs.text.rope == ours.text.rope


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("size", ALL)
def test_same_logits(pairs: dict[str, tuple[Path, Path]], size: str, weights: str) -> None:
    directory, file = pairs[size]
    seen = []
    config = load_target_config(directory, embed_scale_dtype="bfloat16")
    for source in (directory, file):
        target = compile_target(config, open_weights(open_model(source), config, weights), make_backend(1), max_rows=32)
        seen.append(target.extend([Rows(cache=target.new_cache(), ids=PROMPT, wanted=len(PROMPT))])[1])
    assert np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("size", fabricate.SIZES)
def test_the_drafter_beside_a_file_is_found_and_changes_nothing(pairs: dict[str, tuple[Path, Path]], size: str) -> None:
    llm = LLM(pairs[size][1])
    assert llm.pair.drafter is not None and llm.pair.located.drafter is not None
    assert llm.pair.located.drafter.name == "drafter-f32.gguf"
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    plain = llm.generate(PROMPT, params, speculation="off")[0]
    drafted = llm.generate(PROMPT, params, speculation=3)[0]
    assert drafted.token_ids == plain.token_ids and drafted.stats.drafted > 0


@pytest.mark.parametrize(
    ("stored", "weights"), [(T.Q4_0, "auto"), (T.Q4_0, "int8"), (T.Q8_0, "auto"), (T.Q8_0, "int8")]
)
def test_no_second_rounding(models: dict[str, Path], tmp_path: Path, stored: T, weights: str) -> None:
    """Packed weights are the file's, bit for bit: matrices, experts, the embedding, the per-layer table."""
    seen = set()
    for size in ("E4B", "26B-A4B"):
        file = to_gguf(models[size], tmp_path / f"{size}.gguf", stored)
        config = load_target_config(file)
        store = open_weights(open_model(file), config, weights, use_cache=False)
        reader = {t.name: t for t in gguf.GGUFReader(file).tensors}
        for name, entry in open_model(file).tensors.items():
            if entry.dtype != stored.name:
                continue
            expected = gguf.dequantize(reader[entry.name].data, stored)
            if name == "embed_tokens_per_layer":
                got = store.row_table(name).dequantized_rows(np.arange(config.ple_vocab, dtype=np.int32))
            else:
                packed = store.matrix(name)
                want = "int4" if (stored, weights) == (T.Q4_0, "auto") else "int8"
                assert packed.format == want
                got = np.stack([packed.dequantized(i) for i in range(packed.stack)]).reshape(expected.shape)
            assert np.array_equal(got, expected), name
            seen.add(name.rsplit(".", 1)[-1])
    assert {"embed_tokens", "embed_tokens_per_layer", "q_proj", "gate_up_proj"} <= seen


def test_a_code_that_the_grid_has_not(tmp_path: Path, models: dict[str, Path]) -> None:
    """Q8_0 with -128, which ggml's quantizer never writes: rounded in that group alone, by at most half a step."""
    file = to_gguf(models["E4B"], tmp_path / "m.gguf", T.Q8_0)
    entry = open_model(file).tensors["layers.0.mlp.down_proj"]
    before = entry.rows(0, 64)
    with file.open("r+b") as f:
        f.seek(entry.offset + 2)
        f.write(b"\x80")
    codes, scales = entry.codes(0, 64)
    assert codes.min() >= -127
    wide = codes.astype(np.float32) * np.repeat(scales.view(np.float16), 32, axis=1).astype(np.float32)
    stored = entry.rows(0, 64)
    assert stored[0, 0] != before[0, 0]
    assert np.array_equal(wide[1:], before[1:]) and np.array_equal(wide[0, 32:], before[0, 32:])
    step = np.abs(stored[0, :32]).max() / 127
    assert np.abs(wide[0, :32] - stored[0, :32]).max() <= step * 0.57 + 8e-6


def _coarser(file: Path, name: str, kind: T) -> Path:
    """The same file with tensor ``name`` as random blocks of another type."""
    reader = gguf.GGUFReader(file)
    out = file.with_name(f"{kind.name}.gguf")
    writer = gguf.GGUFWriter(out, "gemma4")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
    rng = np.random.default_rng(0)
    for t in reader.tensors:
        if t.name == name:
            weights, size = gguf.GGML_QUANT_SIZES[kind]
            n, k = int(t.shape[1]), int(t.shape[0])
            data = rng.integers(0, 60, (n, k // weights * size), dtype=np.uint8)
            writer.add_tensor(t.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _wide(tmp_path: Path) -> Path:
    """A model whose embedding rows fill the 256 weights of a K-quant block."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    settings = fabricate.text_settings("E4B") | {"hidden_size": 256}
    model = Gemma4ForCausalLM(Gemma4TextConfig(**settings))
    fabricate.randomise(model, 0)
    model.save_pretrained(tmp_path / "wide")
    return to_gguf(tmp_path / "wide", tmp_path / "wide.gguf", T.Q4_0)


REQUANTIZED = [
    T[name] for name, weights, _ in TYPES.values() if weights > 1 and name not in GRIDS and name in T.__members__
]


@pytest.mark.parametrize("kind", REQUANTIZED)
def test_other_quantizations_are_dequantized_and_said_once(tmp_path: Path, kind: T) -> None:
    file = _coarser(_wide(tmp_path), "token_embd.weight", kind)
    config = load_target_config(file)
    said: list[str] = []
    store = open_weights(open_model(file), config, "auto", cache_dir=tmp_path / "cache", on_message=said.append)
    reader = {t.name: t for t in gguf.GGUFReader(file).tensors}
    expected = gguf.dequantize(reader["token_embd.weight"].data, kind)
    got = store.embedding().dequantized()
    assert store.embedding().format == "int8" and store.matrix("layers.0.mlp.gate_proj").format == "int4"
    assert store.format == "mixed"
    step = np.abs(expected.reshape(len(expected), -1, 32)).max(-1) / 127
    assert (
        np.abs(got - expected).reshape(len(expected), -1, 32) <= 0.57 * step[..., None] + 8e-6
    ).all()  # float16 scales
    assert [m for m in said if "requantized" in m] == [f"requantized: 1 tensors {kind.name} as int8 (the head)"]
    again: list[str] = []
    open_weights(open_model(file), config, "auto", cache_dir=tmp_path / "cache", on_message=again.append)
    assert again == []


def test_a_fine_head_is_never_int4(tmp_path: Path) -> None:
    file = _coarser(_wide(tmp_path), "token_embd.weight", T.Q6_K)
    store = open_weights(open_model(file), load_target_config(file), "int4", use_cache=False)
    assert store.embedding().format == "int8"
    assert store.matrix("layers.0.mlp.gate_proj").format == "int4"


def test_the_command_takes_a_file(pairs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A tokenizer of the embedded pair, cut to the tiny vocabulary's size, goes with it."""
    directory, _ = pairs["E2B"]
    vocab = load_target_config(directory).vocab_size
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "\u2581", *"0123456789"]
    tokens += [f"<0x{i:02X}>" for i in range(256)]
    tokens += [f"x{i}" for i in range(vocab - len(tokens))]
    kinds = [3] * 4 + [1] * (len(tokens) - 4)
    values = {
        "ggml.model": "gemma4", "ggml.tokens": tokens, "ggml.token_type": kinds, "ggml.merges": ["a b"],
        "ggml.bos_token_id": 2, "ggml.eos_token_id": 1, "ggml.unknown_token_id": 3, "ggml.add_space_prefix": False,
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }  # fmt: skip
    values["ggml.tokens"][-1] = "ab"
    file = to_gguf(directory, tmp_path / "t.gguf", tokenizer=values)
    shutil.copytree(directory.with_name("E2B-assistant"), tmp_path / "t-assistant")
    done = geminate("generate", str(file), "abc", "-n", "8", "-t", "0", "--ignore-eos", "--json")
    assert done.returncode == 0, done.stderr
    piped = geminate("generate", str(file), "-n", "8", "-t", "0", "--ignore-eos", "--json", stdin=b"abc")
    assert piped.stdout.split('"stats"')[0] == done.stdout.split('"stats"')[0]
    info = geminate("info", str(file), "--json")
    assert info.returncode == 0 and '"chat_template": true' in info.stdout
    assert "t-assistant" in info.stdout
