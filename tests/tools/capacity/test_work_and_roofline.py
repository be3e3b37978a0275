"""The work of a plan against the benchmarks' own counts, and the roofline against their measurements."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geminate.tools.bench.shapes import SHAPES, load_shape
from geminate.tools.capacity.machines import Machine, known_machines
from geminate.tools.capacity.pass_costs import PassCosts, PassTimes, table
from geminate.tools.capacity.roofline import ERROR, roofline
from geminate.tools.capacity.work import ModelWork, model_work

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
STEPS = sorted(BENCHMARKS.glob("step-e2b-*.json"))


def _work(shape: str, weights: Any) -> ModelWork:
    config, assistant, _ = load_shape(shape, None)
    return model_work(config, assistant, weights)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_bytes_and_macs_are_those_the_benchmark_counts(path: Path) -> None:
    step = _read(path)
    work = _work(step["shape"], step["weights"])
    assert work.whole.bytes == step["weight_bytes"] and work.whole.macs == step["macs_per_row"]
    assert work.body.macs + work.tail.macs == work.whole.macs
    if "prefill_macs_per_token" in step:
        assert work.body.macs == step["prefill_macs_per_token"]


def test_experts_are_read_as_often_as_measured() -> None:
    step = _read(BENCHMARKS / "step-26b-a4b-int4.json")
    work = _work("gemma-4-26B-A4B", "int4")
    for rows, count in step["experts_per_layer"].items():
        expert = work.whole.experts[0]
        assert expert.read(int(rows)) / expert.bytes == pytest.approx(count, rel=0.1)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_the_roofline_is_as_far_off_as_it_says(path: Path) -> None:
    """Pass times of one to sixteen rows behind any context, and the rate of a prompt."""
    step = _read(path)
    kv = step.get("kv", "f16")
    machine = Machine(
        key="m", name="m", cores=2, int8_gmacs=step["int8_gmacs"], bandwidth_gbs=step["bandwidth_gbps"], memory_gb=16
    )
    work = _work(step["shape"], step["weights"])
    times = _times(work, roofline(work, machine, kv, probed=True))
    for rows, ms in step["step_ms"].items():
        m = int(rows)
        computed = 1e3 * times.pass_time([(step["context"], m, m)])
        assert 1 / (1 + ERROR) < computed / ms < 1 + ERROR, (rows, computed, ms)
    if "prefill_macs_per_token" in step:
        rate = 256 / times.dense(256, 0)
        assert 1 / (1 + ERROR) < rate / step["prefill_tokens_per_s"] < 1 + ERROR


def _times(work: ModelWork, costs: PassCosts) -> PassTimes:
    return PassTimes(
        costs,
        decoding=work.whole.attention,
        prompt=work.body.attention,
        draft=None if work.draft is None else work.draft.attention,
        max_rows=272,
    )


E2B = _work("gemma-4-E2B", "int4")


@settings(max_examples=20, deadline=None)
@given(
    bandwidth=st.floats(2, 500), rate=st.floats(20, 20_000), rows=st.integers(1, 272), start=st.integers(0, 20_000),
    more=st.floats(1.0, 8.0), prompt=st.booleans(),
)  # fmt: skip
def test_more_of_anything_is_never_slower(
    bandwidth: float, rate: float, rows: int, start: int, more: float, prompt: bool
) -> None:
    def seconds(times_bandwidth: float, times_rate: float) -> tuple[float, float]:
        machine = Machine(key="m", name="m", cores=4, int8_gmacs=rate * times_rate, memory_gb=8,
                          bandwidth_gbs=bandwidth * times_bandwidth)  # fmt: skip
        times = _times(E2B, roofline(E2B, machine))
        return times.pass_time([(start, rows, 1 if prompt else rows)]), times.draft_time(start, 4)

    base = seconds(1, 1)
    for better in (seconds(more, 1), seconds(1, more)):
        assert all(after <= before * (1 + 1e-9) for before, after in zip(base, better, strict=True))


@given(knots=st.lists(st.tuples(st.integers(1, 40), st.floats(1e-4, 1.0)), min_size=1, max_size=5))
def test_times_between_knots_lie_on_lines(knots: list[tuple[int, float]]) -> None:
    rows, made, at = 1, [], 0.0
    for gap, seconds in knots:
        at += seconds
        made.append((rows, at))
        rows += gap
    filled = table(tuple(made), 200)
    assert filled[0] == 0 and all(filled[m] == pytest.approx(t) for m, t in made)
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(filled))


def test_pass_costs_survive_json_and_refuse_nonsense() -> None:
    costs = roofline(E2B, known_machines()["ryzen-7950x"])
    assert PassCosts.from_dict(json.loads(json.dumps(costs.as_dict()))) == costs
    good = costs.as_dict()
    for broken in ({}, {**good, "body": []}, {**good, "step": "x"}, {**good, "whole": [[2, 1.0]]}, {**good, "more": 1},
                   {**good, "draft_step": -1.0}):  # fmt: skip
        with pytest.raises(ValueError, match="no pass costs"):
            PassCosts.from_dict(broken)


def test_every_machine_of_the_table_has_a_source() -> None:
    machines = known_machines()
    assert len(machines) >= 8
    for machine in machines.values():
        assert machine.source.startswith("https://") and machine.watts and machine.idle_watts and machine.price
        assert machine.idle_watts < machine.watts


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_takes_memory_to_plan(shape: str) -> None:
    work = _work(shape, "int4")
    assert work.draft is not None and work.draft.bytes < work.weight_bytes
    assert work.weight_bytes > 1e9
