"""A drafter as a GGUF file: what llama.cpp asks for by name, and the same drafts when it is read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file

from geminate import LLM, SamplingParams
from geminate.errors import (
    ConfigError,
    DrafterMismatchError,
    GeminateError,
    ParameterError,
    QuantizationError,
    TokenizerError,
)
from geminate.families.registry import load_assistant_config, open_model
from geminate.loading.pairing import made_survival
from geminate.tools.export import export_drafter
from geminate.weights.specs import canonical
from support.cli import geminate, refused

EMBEDDED = Path(open_model.__code__.co_filename).parents[1] / "assets" / "embedded"
# src/models/gemma4-assistant.cpp of llama.cpp: what load_arch_tensors creates, of layer i, and what else.
LAYER = ("attn_norm", "attn_q", "attn_output", "attn_q_norm", "post_attention_norm", "layer_output_scale", "ffn_norm",
         "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm")  # fmt: skip
WHOLE = ("token_embd", "output_norm", "nextn.pre_projection", "nextn.post_projection", "rope_freqs")
KEYS = ("block_count", "context_length", "embedding_length", "embedding_length_out", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.key_length_swa", "attention.value_length_swa", "attention.sliding_window",
        "attention.sliding_window_pattern", "attention.shared_kv_layers", "attention.layer_norm_rms_epsilon",
        "nextn_predict_layers", "rope.freq_base", "rope.freq_base_swa", "rope.dimension_count",
        "rope.dimension_count_swa")  # fmt: skip


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_the_embedded_drafter(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "d.gguf"
    assert export_drafter(EMBEDDED / "drafter", None, out, kind) == out.stat().st_size
    reader = gguf.GGUFReader(out)
    config = load_assistant_config(EMBEDDED / "drafter")
    count = len(config.text.layers)
    names = {tensor.name for tensor in reader.tensors}
    expected = {f"{name}.weight" for name in WHOLE} | {f"blk.{i}.{name}.weight" for i in range(count) for name in LAYER}
    assert expected <= names and {name.split(".")[0] for name in names - expected} <= {
        "masked_embd_centroids", "masked_embd_ordering"
    }  # fmt: skip
    fields = {f"gemma4-assistant.{key}" for key in KEYS}
    assert fields <= set(reader.fields)
    assert reader.fields["gemma4-assistant.nextn_predict_layers"].contents() == count
    assert reader.fields["general.architecture"].contents() == "gemma4-assistant"
    types = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert types["blk.0.attn_norm.weight"] == T.F32
    assert types["blk.0.ffn_up.weight"] == T[kind.upper()]
    got = load_assistant_config(out)
    assert (got.text.layers, got.text.rope, got.centroid_top_k) == (
        config.text.layers, config.text.rope, config.centroid_top_k
    )  # fmt: skip
    stored = {canonical(n): t for n, t in load_file(EMBEDDED / "drafter" / "model.safetensors").items()}
    if kind in ("f32", "bf16"):  # the drafter is stored in bfloat16
        for name, entry in open_model(out).tensors.items():
            want = stored[name]
            if want.is_floating_point():
                assert np.array_equal(entry.rows(0, entry.shape[0]).reshape(want.shape), want.float().numpy()), name
            else:
                assert np.array_equal(entry.map(), want.numpy()), name


def test_the_same_drafts(tmp_path: Path) -> None:
    out = tmp_path / "d.gguf"
    export_drafter(EMBEDDED / "drafter", None, out, "bf16")
    params = SamplingParams(max_tokens=40, temperature=0.0)
    a = LLM(drafter="embedded").generate("Once upon a time", params, speculation=4)[0]
    b = LLM(drafter=out).generate("Once upon a time", params, speculation=4)[0]
    assert a.token_ids == b.token_ids
    assert a.stats.accepted_per_position == b.stats.accepted_per_position


@pytest.mark.parametrize("size", ["E4B", "12B", "31B"])
def test_fabricated_sizes(size: str, models: dict[str, Path], tmp_path: Path) -> None:
    drafter = models[size].with_name(f"{size}-assistant")
    target = shutil.copytree(models[size], tmp_path / "t")
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        export_drafter(drafter, target, tmp_path / "d.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EMBEDDED / "target" / name, target / name)
    export_drafter(drafter, target, tmp_path / "d.gguf", "q8_0")
    got, want = load_assistant_config(tmp_path / "d.gguf"), load_assistant_config(drafter)
    assert got.text.layers == want.text.layers and got.backbone_hidden_size == want.backbone_hidden_size
    assert got.use_ordered_embeddings == want.use_ordered_embeddings


def test_the_tokenizer_is_the_targets(tmp_path: Path) -> None:
    export_drafter(EMBEDDED / "drafter", None, tmp_path / "d.gguf")
    parts = open_model(tmp_path / "d.gguf").checkpoint.tokenizer()
    own = open_model(EMBEDDED / "target").checkpoint.tokenizer()
    assert parts is not None and own is not None and parts.backend.get_vocab() == own.backend.get_vocab()
    again = export_drafter(tmp_path / "d.gguf", None, tmp_path / "e.gguf")  # from GGUF
    assert again == (tmp_path / "e.gguf").stat().st_size


def test_what_was_recorded_goes_along(tmp_path: Path) -> None:
    drafter = shutil.copytree(EMBEDDED / "drafter", tmp_path / "d")
    raw = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(raw | {"geminate": {"survival": [0.5, 0.25]}}))
    export_drafter(drafter, None, tmp_path / "d.gguf")
    for path in (drafter, tmp_path / "d.gguf"):
        assert made_survival(LLM(drafter=path).pair) == (0.5, 0.25)


def test_refusals(models: dict[str, Path], tmp_path: Path) -> None:
    drafter = EMBEDDED / "drafter"
    (tmp_path / "there.gguf").write_bytes(b"")
    cases: list[tuple[tuple[object, ...], type[GeminateError], str]] = [
        ((drafter, None, tmp_path / "d.bin"), ParameterError, "must end in .gguf"),
        ((drafter, None, tmp_path / "d.gguf", "q4_k"), ParameterError, "--type must be one of"),
        ((drafter, None, tmp_path / "there.gguf"), QuantizationError, "exists"),
        ((EMBEDDED / "target", None, tmp_path / "d.gguf"), ConfigError, "no drafter that GGUF"),
        ((models["31B"].with_name("31B-assistant"), None, tmp_path / "d.gguf"), DrafterMismatchError, "does not fit"),
    ]
    for arguments, kind, says in cases:
        with pytest.raises(kind, match=says):
            export_drafter(*arguments)  # type: ignore[arg-type]
    with pytest.raises(GeminateError, match="cannot write"):
        export_drafter(drafter, None, Path("/proc/none/d.gguf"))


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "d.gguf"
    done = geminate("train", "export", str(EMBEDDED / "drafter"), "--out", str(out), "--type", "q8_0")
    assert done.returncode == 0 and done.stdout.startswith(f"{out}: ") and out.exists(), done.stderr
    refused("train", "export", str(EMBEDDED / "drafter"), "--out", str(out), says="exists; name another file")
