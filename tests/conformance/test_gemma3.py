"""Gemma 3 targets against transformers 5.17.0: hidden states, logits, greedy ids, both layouts, with a drafter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma4AssistantForCausalLM

from geminate import LLM, SamplingParams
from geminate.families.registry import load_target_config
from geminate.plan.batch import Rows
from support.agreement import BOUND, greedy_ids_agree, states_and_logits_agree
from support.fabricate import VOCAB
from support.fabricate_gemma3 import SIZES, make_drafter, make_target, published


def reference(directory: Path, size: str) -> torch.nn.Module:
    kind = Gemma3ForConditionalGeneration if size == "4B" else Gemma3ForCausalLM
    return kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def their_logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def embedding(directory: Path) -> torch.Tensor:
    tensors = load_file(directory / "model.safetensors")
    return next(t for name, t in tensors.items() if name.endswith("model.embed_tokens.weight"))


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
    from geminate.backends.cpu.program import supported_isas

    if isa not in ("", "reference", *supported_isas()):
        assert isa == "avx2"  # the portable kernels are always there
        return
    monkeypatch.setenv("GEMINATE_ISA", isa)
    llm = LLM(calm[size], drafter=None, weights="bf16")
    ids = prompt(70)  # past the window of 24, in chunks
    states_and_logits_agree(llm, reference(calm[size], size), ids)


@pytest.mark.parametrize("size", SIZES)
def test_greedy_ids(size: str, pairs: dict[str, Path]) -> None:
    greedy_ids_agree(LLM(pairs[size], weights="bf16"), reference(pairs[size], size))


@pytest.mark.parametrize("size", SIZES)
def test_both_layouts_are_the_same_model(size: str, pairs: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    where = published(size, pairs[size], tmp_path / size)
    ids = prompt(40).tolist()
    ours = LLM(where, drafter=None, weights="int8", on_message=said.append).logits(ids)
    assert np.array_equal(ours, LLM(pairs[size], drafter=None, weights="int8").logits(ids))
    assert sum("vision and audio" in line for line in said) == (size == "4B")
    assert np.array_equal(their_logits(reference(where, size), ids), their_logits(reference(pairs[size], size), ids))


def test_bfloat16_checkpoint(tmp_path: Path) -> None:
    """Norms are stored as bfloat16 w, and 1 + w is a float32 sum; the embedding scale is rounded as there."""
    half = make_target("1B", tmp_path / "half", dtype=torch.bfloat16, calm=True)
    config = load_target_config(half)
    assert config.embed_scale == float(torch.tensor(80**0.5).to(torch.bfloat16)) != float(np.float32(80**0.5))
    model = Gemma3ForCausalLM.from_pretrained(half, dtype=torch.bfloat16).float()
    model.model.embed_tokens.embed_scale.fill_(config.embed_scale)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # the cast rounded its frequencies
    ids = prompt(40)
    want = their_logits(model.eval(), ids.tolist())
    ours = LLM(half, drafter=None, weights="bf16").logits(ids.tolist())
    assert np.abs(ours - want).max() <= BOUND * np.abs(want).max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rope_position", ["P", "P-1"])
def test_drafter_forward(size: str, rope_position: str, pairs: dict[str, Path]) -> None:
    """A drafter over Gemma 3's K and V, linear rope scaling included; see test_drafter.test_forward."""
    llm = LLM(pairs[size], weights="bf16", rope_position=rope_position)  # type: ignore[arg-type]
    drafter, target = llm.pair.drafter, llm.pair.target
    assert drafter is not None
    cache = target.new_cache()
    hidden, _ = target.extend([Rows(cache=cache, ids=prompt(20), wanted=1)])
    theirs = Gemma4AssistantForCausalLM.from_pretrained(
        pairs[size].with_name(f"{size}-assistant"), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    slots = {layer.kind: layer.index for layer in target.config.layers}  # the last of each kind
    shared = {kind: tuple(torch.tensor(rows[None]) for rows in cache.rows(slot, 0, 20)) for kind, slot in slots.items()}
    table, state, token = embedding(pairs[size]) * llm.config.embed_scale, torch.tensor(hidden[-1]), 77
    for step in range(3):
        with torch.no_grad():
            out = theirs(
                inputs_embeds=torch.cat((table[token], state))[None, None],
                position_ids=torch.tensor([[20 if rope_position == "P" else 19]]),
                shared_kv_states=shared,
            )
        candidates, logits, following = drafter.step(token, state.numpy(), cache)
        want = out.logits[0, 0].numpy()
        assert np.abs(logits - want[candidates]).max() <= BOUND * np.abs(want).max(), f"step {step}"
        assert np.abs(following - out.last_hidden_state[0, 0].numpy()).max() <= BOUND * np.abs(following).max()
        state, token = out.last_hidden_state[0, 0], int(want.argmax())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_speculation_changes_nothing(size: str, weights: str, pairs: dict[str, Path]) -> None:
    llm = LLM(pairs[size], weights=weights, threads=2, prefill_chunk=48)  # type: ignore[arg-type]
    one = LLM(pairs[size], weights=weights, threads=1, prefill_chunk=7)  # type: ignore[arg-type]

    def run(model: LLM, temperature: float, k: int | str) -> tuple[list[int], list[bytes]]:
        rows: list[bytes] = []
        params = SamplingParams(max_tokens=40, temperature=temperature, seed=9, ignore_eos=True)
        out = model.generate(
            [prompt(33).tolist()], params, speculation=k, on_logits=lambda position, row: rows.append(row.tobytes())
        )[0]
        return out.token_ids, rows

    for temperature in (0.0, 1.0):
        plain = run(llm, temperature, 0)
        assert len(plain[0]) == len(plain[1]) == 40
        for k in (1, 4, 8, "ngram", "auto"):
            assert run(llm, temperature, k) == plain
        assert run(one, temperature, 3) == plain
