"""Scripted rounds of drafting on a virtual machine: the same script, the same decisions, whatever the code's shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geminate.backends.kv_rings import KVRings
from geminate.decoding.draft_rule import DraftRule
from geminate.speculation.costs import PROFILE_ROWS, CostModel, CostProfile
from geminate.speculation.draft import Draft, DraftContext

NO_CACHE = KVRings((), max_context=64, max_rows=17)
Load = tuple[int, int, float, int]  # other sequences, their rows, their tokens, prompt rows


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A virtual machine, a text and how well it is drafted.

    Attributes:
        slope, step: what a row and a draft step add to a pass of one row, in passes.
        accept: chance that a draft token is right; ``shift`` rounds later it is ``later``.
        period: the text repeats after so many tokens; 0: never.
        sequences: sequences that share the passes. prompt_rows: rows of prompts in every pass.
        forced: every n-th round the grammar forces three tokens; 0: no grammar.
    """

    rounds: int = 240
    slope: float = 0.1
    step: float = 0.03
    accept: float = 0.7
    shift: int = 10**9
    later: float = 0.0
    period: int = 0
    sequences: int = 1
    prompt_rows: int = 0
    forced: int = 0
    drafter: bool = True
    limit: int = 16


SCENARIOS = {
    "good drafter": Scenario(),
    "free rows": Scenario(slope=0.0, step=0.001, accept=0.95),
    "never right": Scenario(accept=0.0),
    "costly rows": Scenario(slope=0.9, step=0.1, accept=0.5),
    "turns bad": Scenario(accept=0.9, shift=120, later=0.0),
    "turns good": Scenario(accept=0.0, shift=120, later=0.9),
    "loop": Scenario(period=11, slope=0.02, step=0.2),
    "loop that misleads": Scenario(period=13, accept=0.2, slope=0.3),
    "no drafter": Scenario(drafter=False, period=9),
    "grammar": Scenario(forced=3, accept=0.6),
    "grammar and copies": Scenario(forced=4, period=17, slope=0.05),
    "little room": Scenario(limit=2, slope=0.01),
    "three together": Scenario(sequences=3, accept=0.8),
    "eight together": Scenario(sequences=8, accept=0.5, slope=0.2),
    "beside a prompt": Scenario(sequences=2, prompt_rows=32, accept=0.8),
    "together, copies": Scenario(sequences=4, period=7, accept=0.6),
}


class ScriptedDrafter:
    """Draft tokens whose confidence and truth come from the script's generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def draft(self, context: DraftContext, k: int) -> Draft:
        """See `Drafter`."""
        sure: list[float] = []
        survival = 1.0
        while len(sure) < k:
            sure.append(self.rng.random())
            if context.stop is not None and len(sure) < k:
                survival *= float(context.stop.calibration[min(int(sure[-1] * 16), 15)])
                if survival * context.stop.ahead[len(sure)] < context.stop.need[len(sure)]:
                    break
        return Draft(token_ids=tuple(range(len(sure))), confidence=tuple(sure), steps=len(sure))


class ScriptedGrammar:
    """A constraint that allows everything and forces three tokens when it is told to."""

    def __init__(self) -> None:
        self.now: tuple[int, ...] = ()

    def allowed(self) -> Any:
        return np.ones(4096, dtype=np.bool_)

    def advance(self, token: int) -> None:
        pass

    def rollback(self, count: int) -> None:
        pass

    def forced(self) -> tuple[int, ...]:
        return self.now


def play(s: Scenario, make: Callable[..., Any], stats: Callable[[], Any], model: type[CostModel]) -> list[list[Any]]:
    """[draft length, source, steps] of every round and sequence.

    Args:
        make: (drafter, costs, stats, copies, clock) -> a policy with ``mean``, ``decide(context, limit, load)`` giving
            (draft, what comes back with the outcome) and ``observe(that, accepted, seconds)``.
    """
    rng = random.Random(5)
    ticks = iter(range(10**9))
    profile = CostProfile(passes=tuple(1.0 + s.slope * m for m in range(PROFILE_ROWS)), draft_step=s.step)
    costs, shared = model(profile), stats()
    drafter = ScriptedDrafter(rng) if s.drafter else None
    policies = [make(drafter, costs, shared, True, lambda: 0.01 * next(ticks)) for _ in range(s.sequences)]
    texts = [[_token(s, i) for i in range(8)] for _ in policies]
    grammar = ScriptedGrammar() if s.forced else None
    context = DraftContext(
        token_ids=[], hidden=np.zeros(1, np.float32), cache=NO_CACHE, rule=DraftRule(), constraint=grammar
    )
    made: list[list[Any]] = []
    for index in range(s.rounds // s.sequences):
        if grammar is not None:
            grammar.now = (1, 2, 3) if index % s.forced == 0 else ()
        round_ = []
        for policy, text in zip(policies, texts, strict=True):
            draft, back = policy.decide(replace(context, token_ids=text), s.limit, _load(s, policy, policies))
            round_.append((draft, back))
            made.append([len(draft.token_ids), draft.source, draft.steps])
        _settle(s, index, rng, costs, policies, texts, round_)
    return made


def _token(s: Scenario, at: int) -> int:
    return at % s.period if s.period else at


def _load(s: Scenario, policy: Any, policies: list[Any]) -> Load | None:
    others = [p.mean for p in policies if p is not policy]
    if not others and not s.prompt_rows:
        return None
    rows = len(others) + round(sum(drafted for drafted, _ in others))
    return len(others), rows, len(others) + sum(accepted for _, accepted in others), s.prompt_rows


def _settle(
    s: Scenario,
    index: int,
    rng: random.Random,
    costs: CostModel,
    policies: list[Any],
    texts: list[list[int]],
    round_: list[tuple[Draft, Any]],
) -> None:
    """Accept by the script, and tell costs and policies."""
    rows = sum(1 + len(draft.token_ids) for draft, _ in round_)
    spent = (1.0 + s.slope * (rows - 1)) * rng.uniform(0.9, 1.2)
    single = s.sequences == 1 and not s.prompt_rows
    costs.observe_pass(rows, spent)
    chance = s.accept if index < s.shift else s.later
    for policy, text, (draft, back) in zip(policies, texts, round_, strict=True):
        accepted = 0
        sure = 0.95 if draft.source != "mtp" else chance
        while accepted < len(draft.token_ids) and rng.random() < sure:
            accepted += 1
        drafting = draft.steps * s.step
        if single and draft.steps:
            costs.observe_draft(draft.steps, drafting)
        policy.observe(back, accepted, spent + drafting if single else None)
        text += [_token(s, len(text) + i) for i in range(accepted + 1)]
