"""Our target against transformers 5.17.0: hidden states after every layer, logits, greedy ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from geminate import LLM
from geminate.families.registry import load_target_config
from support.agreement import greedy_ids_agree, states_and_logits_agree
from support.fabricate import SIZES, VOCAB, make_target, published


def reference(directory: Path) -> torch.nn.Module:
    """The oracle, in float32 as loaded (a cast model would have rounded its rope frequencies)."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def prompt(length: int) -> np.ndarray:
    return np.random.default_rng(3).integers(3, VOCAB, length).astype(np.int32)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Targets whose layers do not amplify rounding; see `fabricate.randomise`."""
    root = tmp_path_factory.mktemp("calm")
    return {size: make_target(size, root / size, calm=True) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("isa", ["", "reference"])
def test_hidden_states_and_logits(size: str, isa: str, calm: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINATE_ISA", isa)
    llm = LLM(calm[size], drafter=None, weights="bf16")
    ids = prompt(70)  # past the window of 24, in chunks
    states_and_logits_agree(llm, reference(calm[size]), ids)


@pytest.mark.parametrize("size", SIZES)
def test_greedy_ids(size: str, models: dict[str, Path]) -> None:
    greedy_ids_agree(LLM(models[size], weights="bf16"), reference(models[size]))


@pytest.mark.parametrize("size", SIZES)
def test_published_layout_is_the_same_model(size: str, models: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    where = published(size, models[size], tmp_path / size, shards=3)
    theirs = LLM(where, drafter=None, weights="int8", on_message=said.append)
    ours = LLM(models[size], drafter=None, weights="int8")
    ids = prompt(40).tolist()
    assert np.array_equal(theirs.logits(ids), ours.logits(ids))
    assert sum("vision and audio" in line for line in said) == 1
    assert sum("unused k/v" in line for line in said) == (size in ("E2B", "E4B"))


def test_embedding_scale_follows_the_checkpoint(tmp_path: Path, models: dict[str, Path]) -> None:
    half = make_target("12B", tmp_path / "half", dtype=torch.bfloat16)  # sqrt(80) is no bfloat16 number
    rounded = load_target_config(half)
    exact = load_target_config(models["12B"])
    assert rounded.embed_scale == float(torch.tensor(80**0.5).to(torch.bfloat16))
    assert exact.embed_scale == float(np.float32(80**0.5))
    assert rounded.embed_scale != exact.embed_scale
    assert load_target_config(half, embed_scale_dtype="float32").embed_scale == exact.embed_scale
