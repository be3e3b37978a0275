"""The cost model: what it believes at first, how it follows timings, what a kept profile must look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate import LLM
from geminate.loading.calibrate import cost_profile, measure
from geminate.speculation.costs import PROFILE_ROWS, CostModel, CostProfile

STEPS = CostProfile(passes=tuple(1.0 + 0.2 * (m // 8) for m in range(PROFILE_ROWS)), draft_step=0.01)


def test_profile_speaks_until_timings_do() -> None:
    costs = CostModel(STEPS)
    assert costs.round_time(0) == 1.0 and costs.round_time(4) == pytest.approx(1.04)
    assert costs.round_time(4, steps=0) == 1.0 and costs.round_time(8, batch_rows=7) == pytest.approx(1.2 + 0.08)
    assert costs.pass_time(40) > costs.pass_time(17), "beyond the profile the slope goes on"


def test_modes_move_everything_and_one_row_count_itself() -> None:
    costs = CostModel(STEPS)
    costs.observe_pass(1, 2.0)
    assert costs.pass_time(1) == 2.0 and costs.pass_time(9) == pytest.approx(2.4), "the profile's proportion"
    costs.observe_pass(5, 7.0)
    assert costs.pass_time(5) == pytest.approx((2.0 * 7.0) ** 0.5), "half profile, half timing"
    assert costs.pass_time(1) == 2.0, "a first timing says nothing about others"
    for _ in range(50):
        costs.observe_pass(5, 14.0)
    assert costs.pass_time(5) == pytest.approx(14.0, rel=0.01) and 2.2 < costs.pass_time(1) < 4.5
    for _ in range(4):
        costs.observe_pass(1, 4.0)
    assert costs.pass_time(1) == pytest.approx(4.0, rel=0.2), "stale ones catch up fast"


def test_one_preempted_pass_moves_little() -> None:
    costs = CostModel(STEPS)
    costs.observe_pass(1, 1.0)
    costs.observe_pass(1, 1000.0)
    assert costs.pass_time(1) < 1.12
    costs.observe_draft(4, 0.04)
    costs.observe_draft(4, 400.0)
    assert costs.draft_step < 0.02 and costs.draft_call < 0.5
    costs.observe_pass(1, 0.0)
    assert costs.pass_time(1) > 0.9, "a clock that stood still divides nothing by zero"


def test_a_draft_has_a_price_of_its_own() -> None:
    costs = CostModel(STEPS)
    for i in range(200):
        steps = 1 + i % 5
        costs.observe_draft(steps, 0.3 + 0.02 * steps)
    assert costs.draft_call == pytest.approx(0.3, rel=0.1) and costs.draft_step == pytest.approx(0.015, rel=0.1)
    assert costs.round_time(2) == pytest.approx(1.34, rel=0.02) and costs.round_time(2, steps=0) == 1.0
    for _ in range(300):  # always the same length: the slope cannot be told, the sum can
        costs.observe_draft(1, 0.6)
    assert costs.draft_call + costs.draft_step == pytest.approx(0.6, rel=0.02)


def test_fewer_rows_never_cost_more_than_many() -> None:
    """An estimate can be old: the table that decides takes the cheaper of the two."""
    costs = CostModel(STEPS)
    for rows, seconds in ((1, 1.0), (2, 3.0), (3, 1.2)):
        for _ in range(40):
            costs.observe_pass(rows, seconds)
    assert costs.pass_time(2) > 2.0
    times = costs.round_times()
    assert times == sorted(times) and times[1] == times[2] < 1.5


def test_profile_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(threads=1, cache_dir=tmp_path)
    messages: list[str] = []
    first = cost_profile(llm.pair, messages.append)
    assert first is not None and len(first.passes) == PROFILE_ROWS and first.draft_step > 0
    assert list(first.passes) == sorted(first.passes)
    (kept,) = tmp_path.rglob("*.costs.json")
    monkeypatch.setattr("geminate.loading.calibrate.measure", lambda pair: pytest.fail("measured again"))
    assert cost_profile(llm.pair) == first
    monkeypatch.undo()
    other = LLM(threads=2, cache_dir=tmp_path)
    cost_profile(other.pair)
    assert len(json.loads(kept.read_text())) == 2, "each thread count has its own"
    kept.write_text("{broken")
    assert cost_profile(llm.pair) is not None, "a broken file is measured anew"
    assert len(json.loads(kept.read_text())) == 1


def test_no_drafter_no_draft_step(tmp_path: Path) -> None:
    assert measure(LLM(threads=1, drafter=None).pair, 0.05).draft_step == 0.0


@pytest.mark.parametrize(
    "raw",
    [{}, {"passes": [1.0], "draft_step": 0}, {"passes": [0.0] * 17, "draft_step": 0}, {"passes": None, "draft_step": 1},
     {"passes": [float("nan")] * 17, "draft_step": 0.1}],
)  # fmt: skip
def test_bad_profiles(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        CostProfile.from_dict(raw)
    good = CostProfile.from_dict(STEPS.as_dict())
    assert good == STEPS
