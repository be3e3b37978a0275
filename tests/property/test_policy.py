"""The draft-length policy against virtual machines and texts: regret against plain decoding, and what it finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.backends.kv_rings import KVRings
from geminate.decoding.draft_rule import DraftRule
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import NO_LOAD
from geminate.speculation.costs import PROFILE_ROWS, CostModel, CostProfile
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import AutoPolicy
from geminate.speculation.policy.lengths import best_length

NO_CACHE = KVRings((), max_context=64, max_rows=17)


class Guesser:
    """Guesses that carry a confidence; whether they are accepted the test decides."""

    def __init__(self, confidence: Callable[[int], float]) -> None:
        self.confidence = confidence

    def draft(self, context: DraftContext, k: int) -> Draft:
        made, survival = 0, 1.0
        sure: list[float] = []
        while made < k:
            sure.append(self.confidence(made))
            made += 1
            if context.stop is not None and made < k:
                survival *= float(context.stop.calibration[min(int(sure[-1] * 16), 15)])
                if survival * context.stop.ahead[made] < context.stop.need[made]:
                    break
        return Draft(token_ids=tuple(range(made)), confidence=tuple(sure), steps=made)


def simulate(
    passes: list[float],
    step: float,
    rounds: int,
    accept: Callable[[int, int], bool],
    noise: Callable[[], float],
    confidence: Callable[[int], float] = lambda i: 0.5,
    tokens: Callable[[int], int] = lambda i: i,
    profile: CostProfile | None = None,
) -> tuple[float, float, list[int]]:
    """(virtual seconds, tokens emitted, draft lengths). accept(round, position); tokens(i): the i-th token."""
    costs, stats = CostModel(profile), AcceptanceStats()
    policy = AutoPolicy(Guesser(confidence), costs, stats)
    text = [tokens(i) for i in range(8)]
    clock, chosen = 0.0, []
    for index in range(rounds):
        context = DraftContext(token_ids=text, hidden=np.zeros(1, np.float32), cache=NO_CACHE, rule=DraftRule())
        decision = policy.decide(context, 16, NO_LOAD)
        draft = decision.draft
        k = len(draft.token_ids)
        accepted = 0
        while accepted < k and accept(index, accepted):
            accepted += 1
        spent, drafting = passes[k] * noise(), draft.steps * step
        clock += spent + drafting
        costs.observe_round(k, draft.steps, len(text), spent + drafting)
        policy.observe(decision, accepted)
        text += [tokens(len(text) + i) for i in range(accepted + 1)]
        chosen.append(k)
    return clock, len(text) - 8.0, chosen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), slope=st.floats(0.0, 1.2), step=st.floats(0.0, 0.5), jitter=st.floats(0.0, 0.5),
    pattern=st.sampled_from(["never", "lure", "blocks", "random", "first only"]), loops=st.booleans(),
    wrong_profile=st.booleans(),
)  # fmt: skip
def test_regret_against_plain_is_bounded(
    seed: int, slope: float, step: float, jitter: float, pattern: str, loops: bool, wrong_profile: bool
) -> None:
    """Adversarial acceptance, adversarial timings, a misleading profile: never far behind k = 0."""
    rng = np.random.default_rng(seed)
    passes = [1.0 + slope * m for m in range(PROFILE_ROWS)]
    period = int(rng.integers(5, 60))

    def accept(index: int, position: int) -> bool:
        match pattern:
            case "never":
                return False
            case "lure":
                return index < 200
            case "blocks":
                return index // period % 2 == 0
            case "first only":
                return position == 0
            case _:
                return bool(rng.random() < 0.5)

    profile = CostProfile(passes=(1.0,) * PROFILE_ROWS, draft_step=0.0) if wrong_profile else None
    clock, emitted, _ = simulate(
        passes,
        step,
        1500,
        accept,
        lambda: float(np.exp(jitter * rng.standard_normal() - jitter * jitter / 2)),
        confidence=lambda i: float(rng.random()),
        tokens=(lambda i: i % 5) if loops else (lambda i: i),
        profile=profile,
    )
    # The account: 8 plain rounds, the round that passes them, 1 % for trials; the rest is noise of the clock, and what
    # a profile that is far off costs until rounds of both kinds were compared.
    most = 8.0 + passes[16] + 16 * step
    assert clock <= emitted * (1.08 + 0.2 * jitter) + 3 * most


def test_free_rows_are_used() -> None:
    free = CostProfile(passes=(1.0,) * PROFILE_ROWS, draft_step=0.001)
    clock, emitted, chosen = simulate(
        [1.0] * 17, 0.001, 300, lambda *_: True, lambda: 1.0, confidence=lambda i: 0.99, profile=free
    )
    assert emitted / clock > 13 and chosen[-1] == 16


def test_nothing_accepted_means_nothing_drafted() -> None:
    costly = CostProfile(passes=tuple(1.0 + 0.9 * m for m in range(PROFILE_ROWS)), draft_step=0.1)
    _, _, chosen = simulate([1.0 + 0.9 * m for m in range(17)], 0.1, 400, lambda *_: False, lambda: 1.0, profile=costly)
    assert sum(k > 0 for k in chosen[-200:]) <= 5, "probed at growing intervals"


def test_it_comes_back() -> None:
    profile = CostProfile(passes=tuple(1.0 + 0.1 * m for m in range(PROFILE_ROWS)), draft_step=0.02)
    _, _, chosen = simulate(
        list(profile.passes), 0.02, 1200, lambda index, _: index > 400, lambda: 1.0, profile=profile
    )
    assert np.mean(chosen[300:400]) < 1 and np.mean(chosen[-200:]) > 4


def test_confidence_is_calibrated() -> None:
    """Guesses of high confidence are right, others wrong: longer drafts where it is high, none kept after a low one."""
    rng = np.random.default_rng(0)
    profile = CostProfile(passes=tuple(1.0 + 0.15 * m for m in range(PROFILE_ROWS)), draft_step=0.01)
    sure = {"now": [0.0] * 17}

    def confidence(position: int) -> float:
        if position == 0:
            sure["now"] = [0.95 if rng.random() < 0.7 else 0.1 for _ in range(17)]
        return sure["now"][position]

    def accept(_: int, position: int) -> bool:
        return sure["now"][position] > 0.5

    clock, emitted, chosen = simulate(
        list(profile.passes), 0.01, 1500, accept, lambda: 1.0, confidence, profile=profile
    )
    late = emitted / clock
    blind, blind_rate = best_length([0.7] * 16, [profile.passes[k] + 0.01 * k for k in range(17)])
    assert late > 1.1 * blind_rate, f"{late:.2f} against {blind_rate:.2f} at k = {blind} without confidence"
    assert len(set(chosen[-200:])) > 2


def test_copies_win_where_text_repeats() -> None:
    profile = CostProfile(passes=tuple(1.0 + 0.02 * m for m in range(PROFILE_ROWS)), draft_step=0.2)
    clock, emitted, _ = simulate(
        list(profile.passes),
        0.2,
        300,
        lambda *_: True,
        lambda: 1.0,
        confidence=lambda i: 0.9,
        tokens=lambda i: i % 11,
        profile=profile,
    )
    assert emitted / clock > 9, "a loop is copied at the price of rows alone"


@pytest.mark.parametrize(("rates", "seconds", "best"), [([0.9, 0.5], [1, 1.05, 1.1], 2), ([0.05], [1, 1.2], 0)])
def test_best_length(rates: list[float], seconds: list[float], best: int) -> None:
    assert best_length(rates, seconds)[0] == best
