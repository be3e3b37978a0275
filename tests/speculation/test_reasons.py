"""Every round without a draft says why, from a closed set of reasons."""

from __future__ import annotations

from typing import get_args

import pytest

from geminate import LLM, SamplingParams
from geminate.engine.sequence import Sequence
from geminate.loaded import SpeculationArg
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import REASONS, UNDRAFTED, Reason

PARAMS = SamplingParams(max_tokens=24, temperature=0.7, seed=5, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


def run(llm: LLM, *speculations: SpeculationArg) -> list[Sequence]:
    """Completions that run beside each other."""
    ids = llm.encode("Once upon a time")
    made = [llm.engine.add(llm.request(ids, PARAMS, speculation=speculation)) for speculation in speculations]
    llm.engine.run()
    return made


@pytest.mark.parametrize("speculation", ["auto", "ngram", "off", 3])
def test_reasons_are_counted_for_every_round_without_a_draft(llm: LLM, speculation: SpeculationArg) -> None:
    (sequence,) = run(llm, speculation)
    stats = sequence.stats
    assert sum(stats.undrafted.values()) == stats.draft_lengths.get(0, 0)
    assert set(stats.undrafted) <= set(REASONS) and stats.undrafted["prompt"] == 1
    expected = {"auto": set(), "ngram": {"no_match"}, "off": {"off", "last_token"}, 3: set()}[speculation]
    assert expected <= set(stats.undrafted)


def test_reasons_in_a_batch(llm: LLM) -> None:
    for sequence in run(llm, "auto", "off", "auto", 2):
        assert sum(sequence.stats.undrafted.values()) == sequence.stats.draft_lengths.get(0, 0)


def test_a_drafter_that_fails_is_a_reason(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: DraftContext, k: int) -> Draft:
        raise RuntimeError("no")

    assert llm.engine.drafter is not None
    monkeypatch.setattr(llm.engine.drafter, "draft", broken)
    (sequence,) = run(llm, 3)
    assert set(sequence.stats.undrafted) == {"prompt", "failed", "last_token"} and sequence.stats.drafted == 0


def test_without_a_drafter_text_that_repeats_nothing_has_no_draft() -> None:
    (sequence,) = run(LLM(threads=1, drafter=None), "auto")
    assert "no_drafter" in sequence.stats.undrafted


def test_the_set_is_closed() -> None:
    assert set(UNDRAFTED) == set(get_args(Reason)) and all(d.draft == Draft() for d in UNDRAFTED.values())
