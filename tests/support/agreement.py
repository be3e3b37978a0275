"""What agreeing with transformers means: states, logits, greedy ids; and that nonsense in a config is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from geminate import LLM, SamplingParams
from geminate.errors import GeminateError
from geminate.families.registry import load_target_config
from support.fabricate import VOCAB

BOUND = 1e-3  # of the largest value: float16 keys and values are the one rounding our engine adds
ODD = [None, "x", -1, 0, 1.5, float("nan"), [], {}, {"0": 5}, {"a": {}}, True, [1, "a"], 10**6]


def states_and_logits_agree(llm: LLM, model: torch.nn.Module, ids: np.ndarray) -> None:
    """Every layer's output and the logits of ``ids``, int32 [T], in chunks of 16."""
    taps: dict[str, list[np.ndarray]] = {}
    logits = llm.pair.target.logits(ids, 16, taps)
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
    names = [f"layers.{i}" for i in range(len(llm.config.layers) - 1)] + ["norm"]
    # transformers reports the last layer's output after the final norm.
    for name, theirs in zip(names, out.hidden_states[1:], strict=True):
        want = theirs[0].numpy()
        assert np.abs(np.concatenate(taps[name]) - want).max() <= BOUND * np.abs(want).max(), name
    want = out.logits[0].numpy()
    assert np.abs(logits - want).max() <= BOUND * np.abs(want).max()


def greedy_ids_agree(llm: LLM, model: torch.nn.Module) -> None:
    """Several prompts, some past the window of 24: near ties end a comparison, and come early in random models."""
    params = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
    checked = varied = 0
    for seed in range(8):
        ids = np.random.default_rng(seed).integers(3, VOCAB, 12 if seed % 2 else 40).tolist()
        ours = llm.generate([ids], params, speculation=3)[0].token_ids
        varied += len(set(ours)) >= 20
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + ours])).logits[0].numpy()
        for i, token in enumerate(ours):
            row = logits[len(ids) - 1 + i]
            second, first = np.sort(row)[-2:]
            if first - second < 2e-3 * np.abs(row).max():
                break
            assert token == int(row.argmax()), f"prompt {seed}, token {i}"
            checked += 1
    assert varied >= 2, "texts this uniform test nothing"
    assert checked >= 64


def nonsense_is_refused(
    base: dict[str, Any],
    paths: Iterable[tuple[str, ...]],
    given: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda raw: [raw],
) -> None:
    """Odd values at every path load, or raise a one-line GeminateError; ``given``: what files to try for one."""
    for path in paths:
        for value in ODD:
            raw = copy.deepcopy(base)
            at = raw
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value
            for file in given(raw):
                try:
                    config = load_target_config(file)
                    for kind in {layer.kind for layer in config.layers}:
                        config.inv_freq(kind)
                except GeminateError as error:
                    assert "\n" not in str(error)
