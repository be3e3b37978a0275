"""Gemma 3 targets against transformers 5.17.0: hidden states, logits, greedy ids, both layouts, with a drafter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from geminate import LLM, SamplingParams
from support.fabricate import VOCAB
from support.fabricate_gemma3 import SIZES, make_drafter, make_target

BOUND = 1e-3


def reference(directory: Path, size: str) -> torch.nn.Module:
    kind = Gemma3ForConditionalGeneration if size == "4B" else Gemma3ForCausalLM
    return kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def their_logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def prompt(length: int) -> np.ndarray:
    return np.random.default_rng(3).integers(3, VOCAB, length).astype(np.int32)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Targets whose layers do not amplify rounding; see `fabricate.randomise`."""
    root = tmp_path_factory.mktemp("calm3")
    return {size: make_target(size, root / size, calm=True) for size in SIZES}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Livelier targets, each with a drafter beside it."""
    root = tmp_path_factory.mktemp("gemma3")
    for size in SIZES:
        make_drafter(size, root / f"{size}-assistant")
    return {size: make_target(size, root / size) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("isa", ["", "avx2", "scalar", "reference"])
def test_hidden_states_and_logits(size: str, isa: str, calm: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from geminate.ops.native import supported_isas

    if isa not in ("", "reference", *supported_isas()):
        assert isa == "avx2"  # the portable kernels are always there
        return
    monkeypatch.setenv("GEMINATE_ISA", isa)
    llm = LLM(calm[size], drafter=None, weights="bf16")
    ids = prompt(70)  # past the window of 24, in chunks
    taps: dict[str, list[np.ndarray]] = {}
    logits = llm.pair.target.logits(ids, 16, taps)
    with torch.no_grad():
        out = reference(calm[size], size)(input_ids=torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
    names = [f"layers.{i}" for i in range(len(llm.config.layers) - 1)] + ["norm"]
    # transformers reports the last layer's output after the final norm.
    for name, theirs in zip(names, out.hidden_states[1:], strict=True):
        want = theirs[0].numpy()
        assert np.abs(np.concatenate(taps[name]) - want).max() <= BOUND * np.abs(want).max(), name
    want = out.logits[0].numpy()
    assert np.abs(logits - want).max() <= BOUND * np.abs(want).max()


@pytest.mark.parametrize("size", SIZES)
def test_greedy_ids(size: str, pairs: dict[str, Path]) -> None:
    """Near ties end a comparison; see test_target.test_greedy_ids."""
    llm = LLM(pairs[size], weights="bf16")
    model = reference(pairs[size], size)
    params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
    checked = varied = 0
    for seed in range(8):
        ids = np.random.default_rng(seed).integers(3, VOCAB, 12 if seed % 2 else 40).tolist()
        ours = llm.generate([ids], params, speculation=3)[0].token_ids
        varied += len(set(ours)) >= 20
        logits = their_logits(model, ids + ours)
        for i, token in enumerate(ours):
            row = logits[len(ids) - 1 + i]
            second, first = np.sort(row)[-2:]
            if first - second < 2e-3 * np.abs(row).max():
                break
            assert token == int(row.argmax()), f"prompt {seed}, token {i}"
            checked += 1
    assert varied >= 2, "texts this uniform test nothing"
    assert checked >= 64
