"""Guesses under a grammar: the drafter's own where everything is allowed, and never what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geminate import LLM
from geminate.decoding.draft_rule import STOP_BINS, DraftRule, DraftStop
from geminate.errors import GrammarError
from geminate.plan.batch import Rows
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import NO_LOAD, BatchLoad
from geminate.speculation.costs import CostModel, RoundCosts
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import AutoPolicy, NgramPolicy
from geminate.speculation.sources.constrained import allowed_prefix, constrained_draft
from geminate.speculation.sources.grammar import GrammarSource
from geminate.speculation.sources.mtp import FIRST, MtpDrafter


class Rails:
    """A constraint by position: sets of allowed tokens, None for all; what comes after them is all as well."""

    def __init__(self, *sets: set[int] | None, vocab: int = 8192, forced: tuple[int, ...] = ()) -> None:
        self.sets, self.vocab, self.ahead = sets, vocab, forced
        self.taken: list[int] = []
        self.fails_at: int | None = None

    def allowed(self) -> np.ndarray:
        at = len(self.taken)
        if at == self.fails_at:
            raise GrammarError("too complex")
        chosen = self.sets[at] if at < len(self.sets) else None
        mask = np.full(self.vocab, chosen is None)
        mask[list(chosen or ())] = True
        return mask

    def advance(self, token: int) -> None:
        assert self.allowed()[token]
        self.taken.append(token)

    def rollback(self, count: int) -> None:
        assert 0 <= count <= len(self.taken)
        del self.taken[len(self.taken) - count :]

    def forced(self) -> tuple[int, ...]:
        return self.ahead


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(threads=1)


@pytest.fixture(scope="module")
def context(llm: LLM) -> DraftContext:
    target = llm.pair.target
    ids = llm.encode("Once upon a time there was a little girl who")
    cache = target.new_cache()
    hidden, _ = target.extend([Rows(cache=cache, ids=ids[:-1], wanted=1)])
    return DraftContext(token_ids=ids, hidden=hidden[-1], cache=cache, rule=DraftRule())


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("need", [None, 0.3, 0.9])
def test_all_allowed_is_the_drafter_itself(
    llm: LLM, context: DraftContext, temperature: float, need: float | None
) -> None:
    model = llm.pair.drafter
    assert model is not None
    stop = None
    if need is not None:
        calibration = (np.arange(STOP_BINS, dtype=np.float32) + 0.5) / STOP_BINS
        stop = DraftStop(
            calibration=calibration, ahead=np.full(9, 0.8, np.float32), need=np.linspace(0, need, 9, dtype=np.float32)
        )
    lengths = set()
    for seed in range(12):
        rule = DraftRule(temperature=temperature, top_k=20 * (seed % 2), top_p=0.9, seed=seed, choice=seed % 3)
        free = replace(context, rule=rule, stop=stop)
        wanted = MtpDrafter(model).draft(free, 8)
        rails = Rails()
        got = MtpDrafter(model).draft(replace(free, constraint=rails), 8)
        assert got.token_ids == wanted.token_ids and got.steps == wanted.steps
        np.testing.assert_allclose(got.confidence, wanted.confidence, rtol=1e-4)
        assert rails.taken == []
        lengths.add(len(got.token_ids))
    assert lengths == {8} if need is None else min(lengths) < 8


def test_only_what_is_allowed(llm: LLM, context: DraftContext) -> None:
    model = llm.pair.drafter
    assert model is not None
    few = set(range(0, 8192, 3))
    rails = Rails(few, {77}, None, few)
    draft = constrained_draft(model, replace(context, constraint=rails), 6)
    assert draft.source == "mtp" and len(draft.token_ids) == 6 == draft.steps
    assert draft.token_ids[0] in few and draft.token_ids[1] == 77 and draft.token_ids[3] in few
    assert draft.confidence[1] == 1.0 and rails.taken == []


def test_no_candidate_ends_the_draft(llm: LLM, context: DraftContext) -> None:
    model = llm.pair.drafter
    assert model is not None
    rails = Rails(None, {3, 4})  # neither in the few clusters that the drafter's head looks at
    draft = constrained_draft(model, replace(context, constraint=rails), 6)
    assert len(draft.token_ids) == 1 and draft.steps == 2 and rails.taken == []


def test_a_constraint_that_fails_ends_the_guess_only(llm: LLM, context: DraftContext) -> None:
    model = llm.pair.drafter
    assert model is not None
    rails = Rails()
    rails.fails_at = 2
    assert len(constrained_draft(model, replace(context, constraint=rails), 6).token_ids) == 2
    assert allowed_prefix(rails, [5, 6, 7]) == (5, 6) and rails.taken == []


def test_forced_tokens_cost_no_steps(llm: LLM, context: DraftContext) -> None:
    model = llm.pair.drafter
    assert model is not None
    forced = replace(context, constraint=Rails(forced=(9, 8, 7)))
    assert MtpDrafter(model).draft(forced, 2) == Draft(token_ids=(9, 8), source="forced")
    source = GrammarSource()
    assert source.offer(context, 4) is None and source.offer(forced, 0) is None


def test_copies_are_cut(context: DraftContext) -> None:
    again = replace(context, token_ids=[*range(10, 20), 10, 11, 12], constraint=Rails(None, {14}, {14}))
    assert NgramPolicy().decide(again, 8, NO_LOAD).draft == Draft(token_ids=(13, 14), source="ngram")
    none = replace(again, constraint=Rails({5}))
    assert NgramPolicy().decide(none, 8, NO_LOAD).draft.token_ids == ()
    assert allowed_prefix(None, [1, 2]) == (1, 2)


class Steady(CostModel):
    """A pass costs the same for any number of rows."""

    def round_costs(self, position: int, load: BatchLoad = NO_LOAD) -> RoundCosts:
        return RoundCosts(rounds=[1.0] * 17, call=0.0, step=0.0)


def test_auto_takes_forced_tokens_and_learns_nothing_from_them(llm: LLM, context: DraftContext) -> None:
    model = llm.pair.drafter
    assert model is not None
    stats = AcceptanceStats()
    policy = AutoPolicy(MtpDrafter(model), Steady(), stats)
    mtp = policy._mtp
    assert mtp is not None
    before = mtp._own.values(), stats.positions.values(), stats.calibration.values()
    forced = replace(context, constraint=Rails(forced=(9, 8, 7)))
    for _ in range(5):
        decision = policy.decide(forced, 8, NO_LOAD)
        assert decision.draft == Draft(token_ids=(9, 8, 7), source="forced")
        policy.observe(decision, 1)
    assert (mtp._own.values(), stats.positions.values(), stats.calibration.values()) == before
    assert mtp._reach == FIRST
    policy = AutoPolicy(None, Steady(), AcceptanceStats())
    longer = replace(forced, token_ids=[*range(10, 20), 10, 11, 12], constraint=Rails(forced=(13,)))
    assert policy.decide(longer, 8, NO_LOAD).draft.source == "ngram"
