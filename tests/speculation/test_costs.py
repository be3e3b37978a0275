"""The cost model: what it believes at first, how it follows timings, what a kept profile must look like."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from geminate import LLM
from geminate.loading.calibrate import cost_profile, measure
from geminate.plan.costs import AttentionCosts
from geminate.plan.nodes import Attention
from geminate.speculation.batch_load import BatchLoad
from geminate.speculation.costs import CAUTION, PROFILE_ROWS, CostModel, CostProfile

REST = {"draft_step": 0.1, "draft_call": 0.0, "attention_byte": 0.0, "attention_mac": 0.0}
STEPS = CostProfile(passes=tuple(1.0 + 0.2 * (m // 8) for m in range(PROFILE_ROWS)), draft_step=0.01)


@pytest.fixture(scope="module")
def embedded() -> LLM:
    return LLM(threads=1)


def rounds(costs: CostModel, seconds: dict[int, float], pattern: list[int], position: int = 10) -> None:
    """Rounds by draft length, each of the time that belongs to its length."""
    for k in pattern:
        costs.observe_round(k, k, position, seconds[k])


def test_the_profile_speaks_until_comparisons_do() -> None:
    costs = CostModel(STEPS).round_costs(10)
    assert costs.rounds[0] == 1.0 and costs.step == pytest.approx(0.01) and costs.rounds[8] == pytest.approx(1.2)
    assert costs.added(8, 8) == pytest.approx(0.2 + costs.call + 0.08) and costs.added(8, 0) == pytest.approx(0.2)
    wide = CostModel(STEPS).round_costs(10, BatchLoad(sequences=30, rows=30, tokens=30.0))
    assert wide.rounds[8] > 1.2 * CAUTION / 2, "beyond the profile the slope goes on"


def test_rows_and_drafts_never_look_free() -> None:
    flat = CostModel(CostProfile(passes=(1.0,) * PROFILE_ROWS, draft_step=0.0)).round_costs(10)
    assert all(b > a for a, b in pairwise(flat.rounds)) and flat.call > 0


def test_a_uniformly_slow_machine_changes_no_ratio() -> None:
    costs = CostModel(STEPS)
    before = costs.round_costs(10)
    idle = {k: 1.0 + before.added(k, k) if k else 1.0 for k in (0, 4)}
    for slow in (1.0, 7.0, 0.5):
        rounds(costs, {k: slow * s for k, s in idle.items()}, [0] * 12 + [4] * 12 + [0])
        assert costs.round_costs(10).added(4, 4) == pytest.approx(before.added(4, 4), rel=0.02)


def test_what_rounds_of_both_kinds_show_outvotes_the_profile() -> None:
    costs = CostModel(STEPS)
    rounds(costs, {0: 1.0, 4: 2.0}, [4] * 6 + [0] + [4] * 6 + [0])
    early = costs.round_costs(10).added(4, 4)
    rounds(costs, {0: 1.0, 4: 2.0}, ([4] * 6 + [0]) * 4)
    assert early < 0.5 and costs.round_costs(10).added(4, 4) == pytest.approx(1.0, rel=0.1)
    assert costs.settled


def test_single_readings_move_nothing() -> None:
    costs = CostModel(STEPS)
    typical = {0: 1.0, 4: 1.0 + costs.round_costs(10).added(4, 4)}
    rounds(costs, typical, ([4] * 6 + [0]) * 8)
    before = costs.round_costs(10).added(4, 4)
    for preempted in (1000.0, 0.0):
        costs.observe_round(4, 4, 10, preempted)
        costs.observe_round(0, 0, 10, preempted)
        rounds(costs, typical, [4] * 5 + [0])
        assert costs.round_costs(10).added(4, 4) == pytest.approx(before, rel=0.05)


def test_another_load_is_another_machine() -> None:
    costs = CostModel(STEPS)
    rounds(costs, {0: 1.0, 4: 4.0}, ([4] * 6 + [0]) * 8)
    assert costs.round_costs(10).added(4, 4) > 2.0
    rounds(costs, {0: 0.1}, [0] * 36)
    assert costs.round_costs(10).added(4, 4) < 0.5 and not costs.settled, "what the last load showed is forgotten"


def test_rounds_far_apart_in_a_context_are_not_compared() -> None:
    costs = CostModel(STEPS)
    for at in range(60):
        costs.observe_round(0, 0, 1000 * at, 1.0)
        costs.observe_round(4, 4, 1000 * at + 500, 9.0)
    assert not costs.settled


def test_attention_grows_with_the_context(embedded: LLM) -> None:
    attention = AttentionCosts(embedded.pair.target.plan)
    nodes = [node for node in embedded.pair.target.plan.nodes if isinstance(node, Attention)]
    at = attention.at(99)
    assert at.macs == sum(2 * n.heads * n.head_dim * min(100, n.window or 100) for n in nodes)
    assert at.bytes == sum(4 * n.kv_heads * n.head_dim * min(100, n.window or 100) for n in nodes)
    profile = replace(STEPS, attention_byte=1e-9, attention_mac=1e-6)
    costs = CostModel(profile, target=attention)
    near, far = costs.round_costs(64), costs.round_costs(1000)
    assert near == CostModel(profile).round_costs(64) and far.added(4, 4) > near.added(4, 4)
    grown = 1e-6 * (attention.at(960).macs - attention.at(64).macs)
    once = 1e-9 * (attention.at(960).bytes - attention.at(64).bytes)
    assert far.rounds[8] == pytest.approx(1.0 + (0.2 + 8 * grown) / (1.0 + grown + once))


def test_measured_attention_is_no_negative_time(embedded: LLM) -> None:
    profile = measure(embedded.pair, 0.05)
    assert profile.attention_byte >= 0 and profile.attention_mac >= 0


def test_profile_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geminate.loading.calibrate.DISTURBED", 1e9)  # other tests may run beside this one
    llm = LLM(threads=1, cache_dir=tmp_path)
    messages: list[str] = []
    first = cost_profile(llm.pair, messages.append)
    assert first is not None and len(first.passes) == PROFILE_ROWS and first.draft_step > 0
    assert list(first.passes) == sorted(first.passes)
    (kept,) = tmp_path.rglob("*.costs.json")
    monkeypatch.setattr("geminate.loading.calibrate.measure", lambda pair: pytest.fail("measured again"))
    assert cost_profile(llm.pair) == first
    monkeypatch.undo()
    monkeypatch.setattr("geminate.loading.calibrate.DISTURBED", 1e9)
    other = LLM(threads=2, cache_dir=tmp_path)
    cost_profile(other.pair)
    assert len(json.loads(kept.read_text())) == 2, "each thread count has its own"
    kept.write_text("{broken")
    assert cost_profile(llm.pair) is not None, "a broken file is measured anew"
    assert len(json.loads(kept.read_text())) == 1


def test_a_profile_of_a_busy_machine_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(threads=1, cache_dir=tmp_path)
    monkeypatch.setattr("geminate.loading.calibrate.measure", lambda pair, on_pass: replace(STEPS, quiet=False))
    assert cost_profile(llm.pair) is not None and not list(tmp_path.rglob("*.costs.json"))


def test_no_drafter_no_draft_step(tmp_path: Path) -> None:
    assert measure(LLM(threads=1, drafter=None).pair, 0.05).draft_step == 0.0


@pytest.mark.parametrize(
    "raw",
    [{}, REST | {"passes": [1.0]}, REST | {"passes": [0.0] * 17}, REST | {"passes": None},
     REST | {"passes": [float("nan")] * 17}, REST | {"passes": [1.0] * 17, "attention_mac": -1.0},
     {"passes": [1.0] * 17, "draft_step": 0.1, "draft_call": 0.0}],
)  # fmt: skip
def test_bad_profiles(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        CostProfile.from_dict(raw)
    good = CostProfile.from_dict(STEPS.as_dict())
    assert good == STEPS
