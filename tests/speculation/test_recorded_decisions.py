"""The decisions of ``auto`` in scripted rounds are those recorded before it was taken apart into sources and parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geminate.speculation.acceptance import AcceptanceStats
from geminate.speculation.batch_load import NO_LOAD, BatchLoad
from geminate.speculation.costs import CostModel
from geminate.speculation.draft import Draft, DraftContext, Drafter
from geminate.speculation.policy import AutoPolicy, Decision
from support.scripted_drafting import SCENARIOS, Load, play

RECORDED = json.loads(Path(__file__).with_name("recorded_decisions.json").read_text())


class Adapter:
    """`AutoPolicy` as the script speaks to it."""

    def __init__(
        self,
        drafter: Drafter | None,
        costs: CostModel,
        stats: AcceptanceStats,
        copies: bool,
        clock: Callable[[], float],
    ) -> None:
        self.policy = AutoPolicy(drafter, costs, stats, copies=copies, clock=clock)

    @property
    def mean(self) -> tuple[float, float]:
        averages = self.policy.averages
        return averages.mean_drafted, averages.mean_accepted

    def decide(self, context: DraftContext, limit: int, load: Load | None) -> tuple[Draft, Decision]:
        names = ("sequences", "rows", "tokens", "prompt_rows")
        made = NO_LOAD if load is None else BatchLoad(**dict(zip(names, load, strict=True)))  # type: ignore[arg-type]
        decision = self.policy.decide(context, limit, made)
        return decision.draft, decision

    def observe(self, decision: Decision, accepted: int, seconds: float | None) -> None:
        self.policy.observe(decision, accepted, seconds)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_decisions(name: str) -> None:
    assert play(SCENARIOS[name], Adapter, AcceptanceStats, CostModel) == RECORDED[name]


def test_drafts_of_every_kind_are_in_the_record() -> None:
    rounds: list[Any] = [round_ for rounds in RECORDED.values() for round_ in rounds]
    assert {source for length, source, _ in rounds if length} == {"mtp", "ngram", "forced"}
    assert any(steps > length for length, _, steps in rounds), "drafts that were cut before verification"
