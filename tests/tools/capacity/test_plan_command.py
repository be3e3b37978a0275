"""`geminate plan` as a user runs it: table, JSON, HTML, arithmetic, and one line for what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from geminate.cli.app import app
from geminate.server.settings import Settings
from geminate.server.start import DEFAULT_KV_POSITIONS
from geminate.tools.capacity.figures import number
from geminate.tools.capacity.plan_file import read_plan
from geminate.tools.capacity.simulate import ServerLimits
from geminate.tools.capacity.sizing import Effort

ROOT = Path(__file__).resolve().parents[3]
LOAD = ("--requests-per-day", "2000", "--prompt", "100", "--completion", "16", "--quick")
PLAN = """
[workload]
requests_per_day = 3000
curve = "office"
prompt = {median = 200, p95 = 600}
completion = 16
prefix = {tokens = 128}
[objectives]
first_token_p95_s = 8
tokens_per_s = 2
availability = 0.999
[[model]]
name = "embedded"
weights = "int8"
[[machine]]
name = "raspberry-pi-5"
price = 80
[[machine]]
name = "ryzen-7840u"
[prices]
cloud_input = 0.2
cloud_output = 0.6
"""


def planned(*args: str) -> Result:
    return CliRunner().invoke(app, ["plan", *args])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, dict[str, Any], str]]:
    """A plan of two machines: what was printed, the JSON line, and the page."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.toml").write_text(PLAN)
    with pytest.MonkeyPatch.context() as patch:  # fewer requests, but all that is simulated
        patch.setattr("geminate.cli.plan.Effort", lambda: Effort(shown=100, searched=50))
        done = planned(str(folder / "plan.toml"), "--html", str(folder / "report.html"), "--explain", "2", "--json")
    assert done.exit_code == 0, done.output
    yield done, json.loads(done.stdout.splitlines()[-1]), (folder / "report.html").read_text(encoding="utf-8")


def test_the_table_compares_speculation_off_and_on(made: tuple[Result, dict[str, Any], str]) -> None:
    done, body, _ = made
    rows = [(row["machine"], row["speculation"]) for row in body["rows"]]
    assert rows == [
        ("raspberry-pi-5", "off"),
        ("raspberry-pi-5", "auto"),
        ("ryzen-7840u", "off"),
        ("ryzen-7840u", "auto"),
    ]
    assert "least cost: " in done.stdout and "m: measured on this machine, c: computed" in done.stdout
    assert "no data leaves the machines" in done.stdout and body["cheapest"]["machine"] == "raspberry-pi-5"


def test_every_figure_says_where_it_comes_from(made: tuple[Result, dict[str, Any], str]) -> None:
    found = 0
    for row in made[1]["rows"]:
        for one in (*row["figures"].values(), *row["machine_figures"].values()):
            assert set(one) == {"value", "unit", "kind"} and one["kind"] in ("measured", "computed", "assumed")
            found += one["value"] is not None
        assert row["pass_costs"]["error"] > 0 and "roofline" in row["pass_costs"]["basis"]
        assert row["machine_figures"]["watts"]["kind"] == "assumed"
    assert found > 100


def test_figures_hang_together(made: tuple[Result, dict[str, Any], str]) -> None:
    for row in made[1]["rows"]:
        f = {name: one["value"] for name, one in row["figures"].items()}
        assert row["fits"] and f["first_token_p50"] <= f["first_token_p95"] <= 8 and f["stream_rate_p5"] >= 2
        assert f["with_spares"] > f["machines"] >= 1 and 0 < f["utilisation"] <= 100
        assert f["memory"] == pytest.approx(f["memory_weights"] + f["memory_kv"] + 0.315, abs=0.01)
        assert f["capacity"] >= 3000 / f["machines"] * 0.5 and f["cost"] < 5 and f["cloud"] > 0
        assert [one["clients"] for one in row["streams"]] == [1, 2, 4, 8, 16]
        changes = {one["change"]: one for one in row["sensitivity"]}
        assert changes["load x 1.5"]["utilisation"] > changes["load x 0.5"]["utilisation"]
        assert changes["prompts x 2"]["first_token_p95_s"] > changes["prompts x 0.5"]["first_token_p95_s"]
        assert ("acceptance x 0.5" in changes) == (row["speculation"] == "auto")


def test_the_arithmetic_of_a_row_is_printed(made: tuple[Result, dict[str, Any], str]) -> None:
    text = made[0].stdout
    for begins in (
        "plan: a row reads",
        "pass costs: roofline",
        "memory: weights",
        "load: ",
        "machines: ",
        "energy: ",
        "cloud: ",
    ):
        assert re.search(rf"^{begins}", text, re.MULTILINE), begins
    price = re.search(r"^cost: (\d+) x 80 / \(4 x 365 days\) \+ energy", text, re.MULTILINE)
    assert price and int(price[1]) == made[1]["rows"][1]["figures"]["with_spares"]["value"]


class Page(HTMLParser):
    """Collects what a page would load, and whether its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "xlink:href", "style")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_loads_nothing(made: tuple[Result, dict[str, Any], str]) -> None:
    page = Page()
    page.feed(made[2])
    assert not page.open and not page.loads and "script" not in page.tags and "link" not in page.tags
    assert page.tags.count("svg") >= 5 and "prefers-color-scheme: dark" in made[2] and "default-src 'none'" in made[2]
    assert "url(" not in made[2] and "@import" not in made[2] and made[2].count("<details>") == 4


def test_the_same_seed_gives_the_same_plan() -> None:
    args = (*LOAD, "-m", "embedded", "--weights", "int8", "--machine", "rock-5b", "--json", "--seed", "7")
    first, second = (json.loads(planned(*args).stdout.splitlines()[-1]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--machine", "rock-5b"), "the load is missing"),
        ((*LOAD, "--machine", "cray-1"), "no machine 'cray-1'; known: here, raspberry-pi-5"),
        ((*LOAD, "--machine", "rock-5b", "--machine", "rock-5b"), "machine rock-5b is named twice"),
        ((*LOAD, "-m", "/nowhere/at/all", "--machine", "rock-5b"), "no such directory: /nowhere/at/all"),
        ((*LOAD, "--weights", "int3", "-m", "embedded"), "weights must be one of"),
        ((*LOAD, "--acceptance", "0.5,0.9", "--machine", "rock-5b"), "survival probabilities cannot rise"),
        ((*LOAD, "--acceptance", "often", "--machine", "rock-5b"), "acceptance must be published"),
        ((*LOAD, "--acceptance", "measured", "--machine", "rock-5b"), "a shape has no weights"),
        ((*LOAD, "--first-token", "-1"), "--first-token must be above 0"),
        (("--requests-per-day", "0"), "--requests-per-day must be above 0"),
        (("/nowhere/plan.toml",), "cannot read /nowhere/plan.toml"),
        ((*LOAD, "--curve", "night"), "curve must be flat, office, evening"),
        (("--log", __file__, "--machine", "rock-5b"), "no JSON; expected JSON lines"),
        (
            (*LOAD, "-m", "gemma-4-31B", "--machine", "raspberry-pi-5"),
            "nearest is gemma-4-31B int4 on raspberry-pi-5: memory:",
        ),
        ((*LOAD, "--machine", "raspberry-pi-5", "--first-token", "0.01"), "time to first token: "),
        ((*LOAD, "--machine", "raspberry-pi-5", "--tokens-per-s", "900"), "stream rate: "),
        (
            (*LOAD, "--machine", "rock-5b", "-m", "embedded", "--weights", "int8", "--explain", "9"),
            "--explain names row 9 of 2",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(args: tuple[str, ...], says: str) -> None:
    done = planned(*args)
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0], done.stderr
    assert not done.stdout or "--explain" in args


def test_the_known_machines_are_listed() -> None:
    done = planned("--list-machines")
    assert done.exit_code == 0 and "raspberry-pi-5" in done.stdout and "epyc-9654p" in done.stdout


def test_the_simulated_server_has_the_real_ones_defaults() -> None:
    real = {field.name: field.default for field in fields(Settings)}
    limits = ServerLimits()
    assert (limits.max_running, limits.max_waiting) == (real["max_running"], real["max_waiting"])
    assert limits.kv_positions == DEFAULT_KV_POSITIONS


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567.0, "1,234,567"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.12")],
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert number(value) == text


def test_the_worked_example_is_what_was_printed() -> None:
    printed = (ROOT / "benchmarks" / "plan" / "example.txt").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    table = printed.split("row 1: ")[0]
    assert "\n".join(line.rstrip() for line in table.splitlines()) in page and table.count("gemma-4-E2B") == 6
    assert next(line for line in printed.splitlines() if line.startswith("least cost: ")) in page
    asked = read_plan(ROOT / "benchmarks" / "plan" / "example.toml")
    assert {choice.name for choice in asked.models} == {"gemma-4-E2B", "gemma-4-E4B"}


def test_a_page_escapes_what_users_name(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        PLAN.split("[[machine]]")[0]
        + '[[machine]]\nname = "<script>x</script>"\ncores = 8\nint8_gmacs = 2000\nbandwidth_gbs = 80\nmemory_gb = 32\n'
    )
    done = planned(str(plan), "--html", str(tmp_path / "a.html"), "--quick")
    assert done.exit_code == 0, done.output
    assert "<script>" not in (tmp_path / "a.html").read_text()
