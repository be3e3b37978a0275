"""Which requests let a pass leave out logits, and that their tokens stay the same."""

from __future__ import annotations

from typing import Any

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.scheduler import Turn
from geminate.plan.batch import Rows
from support.mobile import FIXTURES, reference

GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
OTHERS: dict[str, dict[str, Any]] = {
    "sampled": {"temperature": 1.0, "seed": 1},
    "log-probabilities": {"logprobs": 0},
    "penalty": {"presence_penalty": 0.5},
    "repetition": {"repetition_penalty": 1.1},
    "bias": {"logit_bias": {5: 1.0}},
}


def passes(monkeypatch: pytest.MonkeyPatch, params: SamplingParams) -> tuple[set[bool], list[int]]:
    """What the passes of a completion asked for, and its tokens."""
    asked: set[bool] = set()
    rows = Turn.rows

    def noted(turn: Turn) -> Rows:
        made = rows(turn)
        asked.add(made.largest)
        return made

    monkeypatch.setattr(Turn, "rows", noted)
    llm = LLM(FIXTURES / "e2b", drafter=None, use_cache=False, threads=2)
    tokens = llm.generate([reference("e2b")["ids"].tolist()], params, speculation="ngram")[0].token_ids
    return asked, list(tokens)


@pytest.mark.parametrize("what", OTHERS)
def test_other_requests_get_all_logits(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(monkeypatch, SamplingParams(**(GREEDY | OTHERS[what])))[0] == {False}


def test_greedy_requests_get_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, tokens = passes(monkeypatch, SamplingParams(**GREEDY))
    assert asked == {True}
    assert tokens == passes(monkeypatch, SamplingParams(**GREEDY, logprobs=0))[1]
