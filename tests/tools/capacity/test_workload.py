"""Workloads: lengths, rates, logs, and plan files with what is wrong in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from geminate.audit.lines import FORMAT, sealed
from geminate.audit.runs import Run
from geminate.engine.messages import EngineEvent, EngineRequest
from geminate.errors import ParameterError
from geminate.params import SamplingParams
from geminate.tools.capacity.machines import machine_named, make_machine
from geminate.tools.capacity.plan_file import read_plan
from geminate.tools.capacity.traffic_log import read_log
from geminate.tools.capacity.workload import CURVES, DAY_S, Lengths, Prefixes, Workload, at_rate


def test_lengths_have_the_stated_quantiles() -> None:
    lengths = Lengths(median=300, p95=1200, most=5000)
    assert lengths.at(0.5) == 300 and lengths.at(0.95) == 1200 and lengths.at(1 - 1e-9) == 5000
    assert Lengths(median=7, p95=7).at(0.999) == 7 and lengths.scaled(2).at(0.5) == 600


def test_requests_have_the_stated_rate_lengths_and_prefixes() -> None:
    workload = Workload(
        requests_per_day=DAY_S / 2,
        prompt=Lengths(median=100, p95=300),
        prefixes=Prefixes(tokens=500, share=0.25, count=4),
    )
    requests = at_rate(workload.requests(4000, 1), workload.mean_rate)
    assert len(requests) / requests[-1].arrival == pytest.approx(0.5, rel=0.05)
    shared = [one for one in requests if one.prefix_tokens]
    assert len(shared) / 4000 == pytest.approx(0.25, rel=0.1) and {one.prefix for one in shared} == {0, 1, 2, 3}
    assert all(one.prompt > 500 for one in shared)
    completions = sorted(one.completion for one in requests)
    assert completions[2000] == pytest.approx(workload.completion.median, rel=0.1)
    assert [one.prompt for one in workload.requests(50, 1)] == [one.prompt for one in requests[:50]]


@pytest.mark.parametrize("name", CURVES)
def test_a_day_has_as_many_requests_whatever_its_curve(name: str) -> None:
    workload = Workload(requests_per_day=5000, curve=CURVES[name])
    assert sum(rate * 3600 for rate in workload.hourly()) == pytest.approx(5000)
    assert max(workload.hourly()) == pytest.approx(workload.peak_rate)


def test_a_log_gives_rate_curve_lengths_and_prefixes(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    lines = []
    for hour in range(24):
        for at in range(10 if hour == 9 else 1):
            lines.append({"time": hour * 3600 + at, "prompt_tokens": 100 + hour, "completion_tokens": 5,
                          "prefix": "a" if hour % 2 else None, "prefix_tokens": 64})  # fmt: skip
    lines.append({"time": 50_000, "prompt_tokens": 9, "completion_tokens": 0})  # failed before its first token
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    workload = read_log(log)
    assert workload.requests_per_day == pytest.approx(33 / (23 * 3600) * DAY_S * 32 / 33, rel=0.01)
    assert len(workload.observed) == 33 and workload.curve[9] == 10 and workload.curve[3] == 1
    assert {one.prefix for one in workload.observed} == {0, -1} and workload.limit() == 5
    assert {one.completion for one in workload.requests(20, 0)} == {5}
    longer = workload.with_prompts(2.0)
    assert max(one.prompt for one in longer.observed) == 246


def test_the_audit_log_is_a_log(tmp_path: Path) -> None:
    run = Run(
        EngineRequest(
            request_id="a", prompt_ids=list(range(40)), sampling=SamplingParams(max_tokens=9, seed=1).resolved(), n=2
        )
    )
    for choice in (0, 1):
        run.take(EngineEvent(request_id="a", choice=choice, token_ids=(5,) * 7, finish_reason="stop"))
    lines, chain = [{"type": "start", "time": "2026-11-30T12:00:00.000Z", "format": FORMAT}], "0" * 64
    for minute in range(3):
        lines.append(
            {"type": "request", "time": f"2026-11-30T12:0{minute}:00.000Z", "runs": [run.record(with_ids=minute == 1)]}
        )
    lines += [
        {"type": "gap", "why": "lost", "lines": 1},
        {"type": "request", "time": "2026-11-30T12:03:00Z", "runs": []},
    ]
    log = tmp_path / "audit.jsonl"
    with log.open("wb") as file:
        for seq, record in enumerate(lines):
            line, chain = sealed(record, seq, chain)
            file.write(line)
    workload = read_log(log)
    assert [(one.prompt, one.completion) for one in workload.observed] == [(40, 7)] * 6
    assert workload.observed[5].prefix == 0 and workload.observed[5].prefix_tokens == 40
    whole = log.read_bytes().splitlines(keepends=True)
    log.with_name("audit.jsonl.000000001").write_bytes(b"".join(whole[:2]))  # rotated, then cut off by a crash
    log.write_bytes(whole[2][:50] + b"\n" + b"".join(whole[2:]))
    assert read_log(log).observed == workload.observed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds 0 requests"),
        ("not json\n", "line 1: no JSON"),
        ("[1]\n", "line 1: no JSON object"),
        ('{"time": 1, "prompt_tokens": 3}\n', 'line 1: expected JSON lines with "time"'),
        ('{"time": true, "prompt_tokens": 3, "completion_tokens": 3}\n', "line 1: expected"),
        ('{"time": "yesterday", "prompt_tokens": 3, "completion_tokens": 3}\n', "line 1: expected"),
        ('{"time": 1, "prompt_tokens": 3, "completion_tokens": 3}\n' * 2, "2 requests over 0 s"),
        ('{"runs": 3, "time": 1}\n', "line 1: expected"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    with pytest.raises(ParameterError, match=says):
        read_log(log)
    with pytest.raises(ParameterError, match="cannot read"):
        read_log(tmp_path / "nothing")


WHOLE = """
[workload]
requests_per_day = 9000
curve = "office"
prompt = {median = 400, p95 = 1500, max = 3000}
completion = 120
max_tokens = 300
prefix = {tokens = 256, share = 0.5, count = 3}
[objectives]
first_token_p95_s = 2.0
tokens_per_s = 8
availability = 0.999
[[model]]
name = "gemma-4-E2B"
weights = "int4"
acceptance = [0.8, 0.5]
[[model]]
name = "gemma-4-E4B"
weights = "int8"
kv = "int8"
context = 4096
[[machine]]
name = "raspberry-pi-5"
[[machine]]
name = "my box"
cores = 6
int8_gmacs = 900
bandwidth_gbs = 60
memory_gb = 32
[prices]
energy_per_kwh = 0.3
cloud_input = 0.1
cloud_output = 0.4
[server]
max_running = 8
"""


def test_a_plan_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(WHOLE)
    plan = read_plan(path)
    assert plan.workload is not None and plan.workload.limit() == 300 and plan.workload.peak_factor > 2
    assert plan.objectives.availability == 0.999 and plan.limits.max_running == 8
    assert [choice.name for choice in plan.models] == ["gemma-4-E2B", "gemma-4-E4B"] and plan.models[1].kv == "int8"
    assert plan.machines[0] == "raspberry-pi-5" and plan.prices.cloud_output == 0.4


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[workload]", "[workload", "is no TOML"),
        ("requests_per_day = 9000\n", "", "the load is missing"),
        ("requests_per_day = 9000", "requests_per_day = 0", "requests_per_day must be a number above 0"),
        ("requests_per_day = 9000", 'requests_per_day = "many"', "not a string"),
        ("requests_per_day = 9000", "requests_per_day = nan", "requests_per_day must be"),
        ('curve = "office"', 'curve = "night"', "curve must be flat"),
        ('curve = "office"', "curve = [1, 2]", "24 numbers"),
        ("p95 = 1500", "p95 = 15", "p95 must be at least the median"),
        ("max_tokens = 300", "max_tokens = 300\nprompts = 3", "there is no field 'prompts'"),
        ("completion = 120", "completion = true", "must be a table, not true or false"),
        ("share = 0.5", "share = 1.5", "share must be a number from 0 to 1"),
        ("tokens_per_s = 8", "tokens_per_s = -1", "tokens_per_s must be a number above 0"),
        ("availability = 0.999", "availability = 1.0", "availability must be"),
        ('weights = "int4"', 'weights = "int3"', "weights must be one of"),
        ("int8_gmacs = 900\n", "", "machine my box: int8_gmacs is missing"),
        ("cores = 6", "cores = -6", "cores must be above 0 and below 1e"),
        ("cores = 6", "cores = 6.5", "cores must be a whole number"),
        ("int8_gmacs = 900", "int8_gmacs = 900\nint8_per_cycle = 64", "int8_gmacs and int8_per_cycle both say"),
        ('curve = "office"', "curve = [" + "0, " * 23 + "0]", "curve has 24 zeros"),
        ("max = 3000", "max = 1499", "max must be at least p95, not 1499"),
        ('weights = "int4"', 'weights = "int3"', "[[model]] gemma-4-E2B: weights must be one of"),
        ("cores = 6", "cores = 6\nrgb = 1", "no field 'rgb' of a machine"),
        ("cloud_output = 0.4\n", "", "cloud_input and cloud_output go together"),
        ("max_running = 8", "max_running = 8.5", "max_running must be a whole number"),
        ("[server]", "[servers]", "there is no field 'servers'"),
        ('name = "raspberry-pi-5"', "", "name is missing"),
    ],
)
def test_a_wrong_plan_file_is_refused_by_its_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in WHOLE
    path = tmp_path / "plan.toml"
    path.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(ParameterError, match=re.escape(says)):
        read_plan(path)


def test_an_unknown_machine_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ParameterError, match=r"no machine 'cray-1'; known: here, raspberry-pi-5"):
        machine_named("cray-1")
    made = make_machine(
        {"key": "x", "cores": 2, "ghz": 3, "int8_per_cycle": 64, "bandwidth_gbs": 9, "memory_gb": 4}, "x"
    )
    assert made.int8_gmacs == 384
