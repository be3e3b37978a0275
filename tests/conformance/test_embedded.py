"""The embedded pair: loads in transformers as what its card says, and agrees with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from conftest import EMBEDDED
from geminate import LLM, SamplingParams


@pytest.mark.parametrize(("kind", "part"), [(Gemma4ForCausalLM, "target"), (Gemma4AssistantForCausalLM, "drafter")])
def test_loads_in_transformers_without_leftovers(kind: type, part: str) -> None:
    _, found = kind.from_pretrained(EMBEDDED / part, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]


def test_logits_and_tokens_agree() -> None:
    llm = LLM(drafter="auto", weights="bf16")
    ids = llm.encode("Once upon a time, there was a little girl named Mia. " * 16)
    assert len(ids) > llm.config.layers[0].window
    model = Gemma4ForCausalLM.from_pretrained(EMBEDDED / "target", dtype=torch.float32).eval()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(llm.logits(ids) - want).max() <= 1e-3 * np.abs(want).max()
    theirs = AutoTokenizer.from_pretrained(EMBEDDED / "target")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Ça va? 👩‍👩‍👧"}]
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == llm.chat_ids(messages)


def test_size_and_features() -> None:
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < 40e6
    config = json.loads((EMBEDDED / "target" / "config.json").read_text())
    assert config["use_double_wide_mlp"] and config["num_kv_shared_layers"] == 5
    assert config["hidden_size_per_layer_input"] > 0 and config["final_logit_softcapping"] == 30.0
    assert config["head_dim"] != config["global_head_dim"]


def test_drafter_is_accepted() -> None:
    """A wiring mistake shows as acceptance near zero; the figure itself is a benchmark's business."""
    llm = LLM()
    prompt = llm.chat_ids([{"role": "user", "content": "Tell me a short story."}])
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=128, temperature=temperature, seed=3, ignore_eos=True)
        stats = llm.generate([prompt], params, speculation=4)[0].stats
        assert stats.acceptance_length > 1.8
        # Only the first round (it ends the prefill) and the last (no room) may go without drafts.
        assert stats.drafted_per_position[0] >= stats.rounds - 2
