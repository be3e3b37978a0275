"""Draft lengths of a batch against virtual machines: never behind plain decoding, ahead where rows are free."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.backends.kv_rings import KVRings
from geminate.decoding.draft_rule import DraftRule
from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import PROFILE_ROWS, CostModel, CostProfile
from geminate.speculation.draft import Draft, DraftContext
from geminate.speculation.policy import AutoPolicy

NO_CACHE = KVRings((), max_context=64, max_rows=17)


class Guesser:
    """Says how sure it is of each guess, and is right with that chance."""

    def __init__(self, rng: np.random.Generator, best: float) -> None:
        self.rng, self.best = rng, best

    def draft(self, context: DraftContext, k: int) -> Draft:
        sure: list[float] = []
        survival = 1.0
        while len(sure) < k:
            sure.append(float(self.best * self.rng.uniform(0.6, 1.0)))
            if context.stop is not None and len(sure) < k:
                survival *= float(context.stop.calibration[min(int(sure[-1] * 16), 15)])
                if survival * context.stop.ahead[len(sure)] < context.stop.need[len(sure)]:
                    break
        return Draft(token_ids=tuple(range(len(sure))), confidence=tuple(sure), steps=len(sure))


def serve(
    sequences: int, passes: np.ndarray, step: float, accept: float, rounds: int, seed: int = 0, prompt_rows: int = 0
) -> tuple[float, float]:
    """(tokens a second against plain rounds of the same batch, guesses a sequence and round); passes[m - 1] is T(m)."""
    rng = np.random.default_rng(seed)
    costs, stats = CostModel(CostProfile(passes=tuple(passes[:PROFILE_ROWS]), draft_step=step)), AcceptanceStats()
    policies = [AutoPolicy(Guesser(rng, accept), costs, stats, copies=False) for _ in range(sequences)]
    clock, tokens, guesses = 0.0, 0, 0
    for _ in range(rounds):
        spent, decisions = 0.0, []
        for policy in policies:
            others = [p for p in policies if p is not policy]
            load = BatchLoad(
                sequences=len(others),
                rows=len(others) + round(sum(p.averages.mean_drafted for p in others)),
                tokens=len(others) + sum(p.averages.mean_accepted for p in others),
                prompt_rows=prompt_rows,
            )
            context = DraftContext(token_ids=[1, 2], hidden=np.zeros(1, np.float32), cache=NO_CACHE, rule=DraftRule())
            decisions.append(policy.decide(context, 16, load))
            spent += decisions[-1].draft.steps * step
        rows = sum(1 + len(decision.draft.token_ids) for decision in decisions)
        taken = float(passes[rows + prompt_rows - 1])
        clock += spent + taken
        if sequences == 1 and not prompt_rows:
            costs.observe_round(rows - 1, decisions[0].draft.steps, 2, spent + taken)
        for policy, decision in zip(policies, decisions, strict=True):
            draft = decision.draft
            accepted = 0
            while accepted < len(draft.token_ids) and rng.random() < draft.confidence[accepted]:
                accepted += 1
            policy.observe(decision, accepted)
            tokens += 1 + accepted
            guesses += len(draft.token_ids)
    plain = sequences * rounds / (rounds * float(passes[sequences + prompt_rows - 1]))
    return tokens / clock / plain, guesses / rounds / sequences


def machine(knee: int, slope: float, most: int = 300) -> np.ndarray:
    """T(m): flat up to ``knee`` rows (memory), then rising by ``slope`` of T(1) a row (arithmetic)."""
    return np.maximum(1.0, 1.0 + slope * (np.arange(1, most + 1) - knee))


@settings(max_examples=40, deadline=None)
@given(
    sequences=st.integers(2, 16), knee=st.integers(1, 12), slope=st.floats(0.02, 1.0), step=st.floats(0.0, 0.2),
    accept=st.floats(0.02, 0.98), seed=st.integers(0, 999), prompt_rows=st.sampled_from([0, 0, 32]),
)  # fmt: skip
def test_never_behind_plain(
    sequences: int, knee: int, slope: float, step: float, accept: float, seed: int, prompt_rows: int
) -> None:
    gain, _ = serve(sequences, machine(knee, slope), step, accept, 300, seed, prompt_rows)
    # Where guesses do not pay, the batch tries one every 64 rounds in the end, more often at first.
    assert gain > 0.985 - 0.04 * (slope + step)


def test_speculation_fades_as_the_batch_fills_the_machine() -> None:
    lengths = [serve(n, machine(8, 0.125), 0.02, 0.75, 400)[1] for n in (1, 2, 4, 8, 16)]
    assert lengths[0] > 2 and all(a >= b - 0.05 for a, b in pairwise(lengths))
    assert lengths[-1] < 0.5 * lengths[0]


@pytest.mark.parametrize("sequences", [2, 8])
def test_free_rows_are_used_by_all(sequences: int) -> None:
    gain, length = serve(sequences, machine(300, 0.0), 0.0001, 0.9, 400)
    assert gain > 3 and length > 5


def test_the_rate_of_the_others_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation control: a rule that sees its own tokens only drafts where the batch loses by it."""
    here = {"sequences": 12, "passes": machine(4, 0.3), "step": 0.05, "accept": 0.5, "rounds": 300}
    careful, _ = serve(**here)  # type: ignore[arg-type]
    real = AutoPolicy.decide
    monkeypatch.setattr(
        AutoPolicy,
        "decide",
        lambda self, context, limit, load: real(self, context, limit, BatchLoad(rows=load.rows, sequences=1)),
    )
    selfish, _ = serve(**here)  # type: ignore[arg-type]
    assert careful > 0.97 and selfish < careful - 0.02
