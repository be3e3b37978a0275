"""Which tensors are needed, which are passed over knowingly, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geminate.checkpoint.safetensors_reader import TensorEntry, checkpoint_files, read_files
from geminate.errors import WeightsError
from geminate.families.registry import load_assistant_config, load_target_config, open_model
from geminate.weights.opening import open_weights
from geminate.weights.specs import Matched, canonical, expected_tensors, match
from support import fabricate_gemma3 as gemma3
from support.fabricate import SIZES, published

Change = Callable[[dict[str, torch.Tensor]], None]
UP = "model.layers.0.mlp.up_proj.weight"


def matched(source: Path, tmp_path: Path, change: Change) -> Matched:
    copy = Path(shutil.copytree(source, tmp_path / "m"))
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    return match(read_files(checkpoint_files(copy)), load_target_config(copy), "here")


@pytest.mark.parametrize("prefix", ["model.language_model.", "model.", "language_model.model.", ""])
def test_prefixes(prefix: str) -> None:
    assert canonical(f"{prefix}layers.3.self_attn.q_proj.weight") == "layers.3.self_attn.q_proj"
    assert canonical(f"{prefix}layers.3.layer_scalar") == "layers.3.layer_scalar"
    assert canonical(f"{prefix.replace('language_model.model', 'language_model')}lm_head.weight") == "lm_head"


@pytest.mark.parametrize("size", SIZES)
def test_every_saved_tensor_is_expected_and_the_reverse(size: str, models: dict[str, Path]) -> None:
    for where, config in (
        (models[size], load_target_config(models[size])),
        (
            models[size].with_name(f"{size}-assistant"),
            load_assistant_config(models[size].with_name(f"{size}-assistant")),
        ),
    ):
        saved = {canonical(n): tuple(e.shape) for n, e in read_files(checkpoint_files(where)).items()}
        assert saved == {spec.name: spec.shape for spec in expected_tensors(config)}


def test_skipped_by_kind_with_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    where = published("E2B", models["E2B"], tmp_path / "p", shards=3)
    skipped = match(read_files(checkpoint_files(where)), load_target_config(where), "here").skipped
    assert skipped["vision and audio towers"] == (3, 4 * (64 + 8 + 64))
    assert skipped["unused k/v of KV-shared layers"] == (15, 15 * 64)


def test_all_problems_are_named_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for i in range(6):
            del tensors[f"model.layers.{i}.mlp.gate_proj.weight"]
        tensors["model.surprise"] = torch.zeros(2)
        tensors[UP] = torch.zeros(3, 3)
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    with pytest.raises(WeightsError) as error:
        matched(models["31B"], tmp_path, change)
    for part in (
        "misses tensors: layers.0.mlp.gate_proj",
        "and 1 more",
        "does not know: model.surprise",
        f"{UP} is [3, 3], expected [128, 96]",
        "model.norm.weight is I8",
    ):
        assert part in str(error.value)


def test_head_is_skipped_only_if_it_is_the_embedding(models: dict[str, Path], tmp_path: Path) -> None:
    """transformers does not tie two stored tensors that differ, so ignoring the head would change the logits."""

    def same(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].to(torch.bfloat16)  # representable: equal

    def other(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][-1, -1] += 1

    assert "lm_head (tied to the embedding)" in matched(models["31B"], tmp_path / "same", same).skipped
    with pytest.raises(WeightsError, match=r"lm_head\.weight differs"):
        matched(models["31B"], tmp_path / "other", other)


def test_layer_scalar_may_be_a_number(models: dict[str, Path], tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.layer_scalar"] = torch.tensor(0.75, dtype=torch.bfloat16)

    matched(models["31B"], tmp_path, change)
    store = open_weights(open_model(tmp_path / "m"), load_target_config(tmp_path / "m"), "int8", use_cache=False)
    assert store.scalar("layers.0.layer_scalar") == 0.75


def test_vectors_must_be_finite(models: dict[str, Path], tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"][3] = float("nan")

    matched(models["31B"], tmp_path, change)
    with pytest.raises(WeightsError, match=r"model\.norm\.weight holds numbers that are not finite"):
        open_weights(open_model(tmp_path / "m"), load_target_config(tmp_path / "m"), "int8", use_cache=False)


@pytest.mark.parametrize("size", gemma3.SIZES)
def test_gemma3_names(size: str, tmp_path: Path) -> None:
    where = gemma3.make_target(size, tmp_path / size)
    found = match(read_files(checkpoint_files(where)), load_target_config(where), "here")
    assert not any("layer_scalar" in name for name in found.tensors) and len(found.tensors) == 8 * 13 + 2
    assert set(found.skipped) == ({"vision and audio towers"} if size == "4B" else set())


def test_gemma3_norms_are_packed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + w in float32, except where the file already holds the sum (GGUF)."""
    where = gemma3.make_target("1B", tmp_path / "m", dtype=torch.bfloat16)
    stored = {canonical(n): t.float().numpy() for n, t in load_file(where / "model.safetensors").items()}
    norms = [n for n in stored if n.endswith("norm")]
    assert len(norms) == 8 * 6 + 1 and all(stored[n].min() < 0 for n in norms)
    config = load_target_config(where)
    store = open_weights(open_model(where), config, "int8", use_cache=False)
    for name in norms:
        assert np.array_equal(store.vector(name), np.float32(1) + stored[name])
    monkeypatch.setattr(TensorEntry, "whole_norm", True)
    whole = open_weights(open_model(where), config, "int8", use_cache=False)
    for name in norms:
        assert np.array_equal(whole.vector(name), stored[name])
