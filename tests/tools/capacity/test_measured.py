"""Pass costs measured here: what is measured, when it is kept, and that a plan uses it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geminate import LLM
from geminate.cli.app import app
from geminate.tools.capacity.measure import Measured, kept_costs, measure_costs
from geminate.tools.capacity.measured_pair import measured_survival
from geminate.tools.capacity.models import make_candidate
from support.capacity import COSTS


@pytest.fixture(scope="module")
def measured(packed_cache: Path) -> Measured:
    pair = LLM(threads=1).pair
    return measure_costs(pair.target, pair.drafter)


def test_every_part_of_a_pair_is_measured(measured: Measured) -> None:
    costs = measured.costs
    assert costs.kind == "measured" and costs.error == 0 and "1 threads" in costs.basis
    for knots in (costs.body, costs.whole):
        assert knots[0][0] == 1 and all(b[0] > a[0] and b[1] >= a[1] for a, b in pairwise(knots))
    # Rows that want logits go through more layers and the head.
    assert costs.whole[0][1] > costs.body[0][1] > 0 and costs.draft_step > 0
    assert costs.profile().passes[16] == dict(costs.whole)[17]


def test_quiet_measurements_are_kept_and_others_are_not(tmp_path: Path) -> None:
    said: list[str] = []
    made: list[int] = []

    def measure(quiet: bool, step: float) -> Measured:
        made.append(1)
        return Measured(costs=replace(COSTS, step=step), quiet=quiet)

    def costs(quiet: bool, step: float, key: str = "a") -> float:
        return kept_costs(key, lambda: measure(quiet, step), said.append, tmp_path).step

    assert costs(False, 0.1) == 0.1 and "something else runs" in said[0] and not (tmp_path / "plan-costs.json").exists()
    assert costs(True, 0.2) == 0.2 and costs(True, 0.3) == 0.2 and costs(True, 0.4, "b") == 0.4 and len(made) == 3
    (tmp_path / "plan-costs.json").write_text('{"a": ')
    assert costs(True, 0.5) == 0.5 and list(json.loads((tmp_path / "plan-costs.json").read_text()).values())


def test_a_plan_measures_this_machine(packed_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINATE_CACHE", str(tmp_path))
    found = Measured(costs=COSTS, quiet=True)
    monkeypatch.setattr("geminate.tools.capacity.measured_pair.measure_costs", lambda *_, **__: found)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        "[workload]\nrequests_per_day = 500\nprompt = 60\ncompletion = 8\n"
        '[[model]]\nname = "embedded"\nweights = "int8"\n'
        '[[machine]]\nname = "here"\nprice = 900\nwatts = 60\nidle_watts = 20\n'
    )
    done = CliRunner().invoke(app, ["plan", str(plan), "--quick", "--threads", "1", "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout.splitlines()[-1])["rows"][0]
    assert row["pass_costs"]["basis"] == COSTS.basis and row["figures"]["row_ms"]["value"] == 20
    kinds = {name: figure["kind"] for name, figure in row["machine_figures"].items()}
    assert kinds["bandwidth"] == kinds["int8"] == "measured" and kinds["price"] == kinds["watts"] == "assumed"
    assert row["figures"]["cost"]["value"] > 900 / (4 * 365)


def test_acceptance_is_measured_on_prompts(packed_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geminate.tools.capacity.measured_pair.PROMPTS", 2)
    monkeypatch.setattr("geminate.tools.capacity.measured_pair.TOKENS", 24)
    survival = measured_survival(make_candidate("embedded", "int8", "f16", "measured"))
    assert len(survival) == 4 and all(1 >= a >= b >= 0 for a, b in pairwise(survival)) and survival[0] > 0.2
