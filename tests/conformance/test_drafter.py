"""Our drafter against transformers' assistant modules, on given inputs and in whole greedy generations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma4AssistantForCausalLM, Gemma4UnifiedAssistantForCausalLM

from geminate import LLM, SamplingParams
from geminate.plan.batch import Rows
from support.fabricate import SIZES, VOCAB


def assistant(directory: Path, size: str) -> torch.nn.Module:
    kind = Gemma4UnifiedAssistantForCausalLM if size == "12B" else Gemma4AssistantForCausalLM
    return kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rope_position", ["P", "P-1"])
@pytest.mark.parametrize("isa", ["", "reference"])
def test_forward(
    size: str, rope_position: str, isa: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most window - 1 rows: transformers' mask admits one row more past that."""
    monkeypatch.setenv("GEMINATE_ISA", isa)
    llm = LLM(models[size], weights="bf16", rope_position=rope_position)  # type: ignore[arg-type]
    drafter, target = llm.pair.drafter, llm.pair.target
    assert drafter is not None
    ids = np.random.default_rng(5).integers(3, VOCAB, 20).astype(np.int32)
    cache = target.new_cache()
    hidden, _ = target.extend([Rows(cache=cache, ids=ids, wanted=1)])
    theirs = assistant(models[size].with_name(f"{size}-assistant"), size)
    embedding = torch.tensor(llm.config.embed_scale) * _embedding_row(models[size], 77)
    donors = {layer.kind: layer.index for layer in target.config.layers if not layer.kv_shared}
    shared = {
        kind: tuple(torch.tensor(rows[None]) for rows in cache.rows(slot, 0, 20)) for kind, slot in donors.items()
    }
    position = 20 if rope_position == "P" else 19
    state = torch.tensor(hidden[-1])
    token = 77
    for step in range(3):
        with torch.no_grad():
            out = theirs(
                inputs_embeds=torch.cat((embedding, state))[None, None],
                position_ids=torch.tensor([[position]]),
                shared_kv_states=shared,
            )
        candidates, logits, following = drafter.step(token, state.numpy(), cache)
        want = out.logits[0, 0].numpy()
        scale = np.abs(want).max()
        assert np.abs(logits - want[candidates]).max() <= 1e-3 * scale, f"step {step}"
        if drafter.config.use_ordered_embeddings:
            outside = np.setdiff1d(np.arange(VOCAB), candidates)
            assert np.ptp(want[outside]) == 0, "the same clusters must be selected"
        assert np.abs(following - out.last_hidden_state[0, 0].numpy()).max() <= 1e-3 * np.abs(following).max()
        state = out.last_hidden_state[0, 0]
        token = int(want.argmax())
        embedding = torch.tensor(llm.config.embed_scale) * _embedding_row(models[size], token)


def _embedding_row(directory: Path, token: int) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")["model.embed_tokens.weight"][token]


@pytest.mark.parametrize("size", ["E2B", "31B"])
def test_same_text_as_their_assisted_generation(size: str, models: dict[str, Path]) -> None:
    """Greedy only: transformers' sampled assisted output is biased."""
    model = AutoModelForCausalLM.from_pretrained(models[size], dtype=torch.float32).eval()
    ids = np.random.default_rng(8).integers(3, VOCAB, 10).tolist()
    theirs = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, 10, dtype=torch.long),
        do_sample=False,
        max_new_tokens=24,
        assistant_model=assistant(models[size].with_name(f"{size}-assistant"), size),
        eos_token_id=None,
    )[0, 10:].tolist()
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    ours = LLM(models[size], weights="bf16").generate([ids], params, speculation=4)[0].token_ids
    with torch.no_grad():
        logits = model(torch.tensor([ids + theirs])).logits[0, 9:-1]
    top = logits.topk(2).values
    sure = int(((top[:, 0] - top[:, 1]) > 2e-3 * logits.abs().max(-1).values).long().cumprod(0).sum())
    assert sure >= 5
    assert ours[:sure] == theirs[:sure]
