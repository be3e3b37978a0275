"""``geminate plan``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, say, tell, user_errors, write_json
from geminate.cli.flags import JsonOpt
from geminate.replacing import replacing
from geminate.tools.capacity.explain import explain as explained
from geminate.tools.capacity.figures import MARKS, shown
from geminate.tools.capacity.html_report import html_report
from geminate.tools.capacity.machines import HERE, known_machines
from geminate.tools.capacity.make_plan import Choices, make_plan
from geminate.tools.capacity.measure import this_machine
from geminate.tools.capacity.plan_file import ModelChoice, PlanFile, curve_of, read_plan
from geminate.tools.capacity.report import COLUMNS, DATA, CapacityPlan, figures, plan_json
from geminate.tools.capacity.sizing import QUICK, Effort, Sizing
from geminate.tools.capacity.traffic_log import read_log
from geminate.tools.capacity.workload import CURVES, Lengths, Workload

ABREAST = 6  # rows of a plan in one table of figures
LEGEND = "m: measured on this machine, c: computed (simulated), a: assumed"


@user_errors()
def plan(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Plan file (TOML): workload, objectives, models, machines, prices."),
    ] = None,
    requests_per_day: Annotated[
        float | None, typer.Option("--requests-per-day", help="Offered load; what a token costs depends on it most.")
    ] = None,
    curve: Annotated[
        str | None, typer.Option("--curve", help=f"Load over the day: {', '.join(CURVES)}.", show_default="flat")
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option("--prompt", min=1, help="Tokens of every prompt.", show_default="median 300, p95 1,200"),
    ] = None,
    completion: Annotated[
        int | None,
        typer.Option("--completion", min=1, help="Tokens of every completion.", show_default="median 150, p95 500"),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Take load and lengths from this request or audit log (JSON lines).")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Shape, directory, GGUF file or hub id; repeatable.", show_default="gemma-4-E2B"
        ),
    ] = None,
    weights: Annotated[str, typer.Option("--weights", help="Weight format of --model.")] = "int4",
    acceptance: Annotated[
        str | None,
        typer.Option(
            "--acceptance",
            help="Of draft tokens: published, code, prose, measured, s_1,s_2,.. or a .json of "
            "'geminate bench decode --json'.",
            show_default="published",
        ),
    ] = None,
    machines: Annotated[
        list[str] | None,
        typer.Option("--machine", help="here, or a machine of --list-machines; repeatable.", show_default=HERE),
    ] = None,
    first_token: Annotated[
        float | None,
        typer.Option("--first-token", help="Objective: seconds to the first token, 95th percentile.", show_default="5"),
    ] = None,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-s", help="Objective: tokens a second of a stream, for 95 % of them.", show_default="6"
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")] = None,
    explain: Annotated[
        int | None, typer.Option("--explain", min=1, help="Print the arithmetic of this row of the table.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Simulate less: rough percentiles, no sensitivity.")] = False,
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Do not run models here: compute pass costs from probes of two seconds."),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Worker threads of this machine.", show_default="physical cores"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of arrivals and lengths.")] = 0,
    list_machines: Annotated[bool, typer.Option("--list-machines", help="List the known machines and stop.")] = False,
    json_out: JsonOpt = False,
) -> None:
    """Which machines carry a load, how fast, and at what cost: the engine, simulated."""
    if list_machines:
        _print_machines()
        return
    asked = PlanFile() if file is None else read_plan(file)
    asked = _with_workload(asked, requests_per_day, curve, prompt, completion, log)
    asked = _with_choices(asked, models, weights, acceptance, machines, first_token, tokens_per_s)
    with Bars(counted=False) as bars:
        made = make_plan(
            asked,
            Choices(
                effort=QUICK if quick else Effort(),
                seed=seed,
                measure=not no_measure,
                threads=threads,
                on_part=lambda what, done, total: bars.part("plan", done, total, what),
                on_message=say,
            ),
            this_machine,
        )
    if not made.possible:
        row = made.nearest
        fail(f"no machine meets the objectives; nearest is {row.candidate.label} on {row.machine.key}: {row.broken}")
    if explain is not None and explain > len(made.rows):
        fail(f"--explain names row {explain} of {len(made.rows)}")
    print_plan(made)
    if explain is not None:
        tell("")
        for line in explained(made.rows[explain - 1], made):
            tell(line)
    if html is not None:
        with replacing(html, f".{html.name}-") as written:
            written.write(html_report(made).encode())
        say(f"report: {html}")
    if json_out:
        write_json(plan_json(made))


def _with_workload(
    asked: PlanFile,
    requests_per_day: float | None,
    curve: str | None,
    prompt: int | None,
    completion: int | None,
    log: Path | None,
) -> PlanFile:
    """The plan file's workload with what the command line says of it."""
    workload = asked.workload
    if log is not None:
        if prompt is not None or completion is not None:
            fail("--log says how long requests are: leave out --prompt and --completion")
        workload = read_log(log)
    if requests_per_day is not None:
        if not 0 < requests_per_day <= 1e10:
            fail(f"--requests-per-day must be above 0, not {requests_per_day:g}")
        workload = replace(workload or Workload(requests_per_day=1.0), requests_per_day=requests_per_day)
    if workload is None:
        return asked
    if (prompt or completion) and workload.observed:
        fail("the plan file's log says how long requests are: leave out --prompt and --completion")
    if prompt is not None:
        workload = replace(workload, prompt=Lengths(median=prompt, p95=prompt))
    if completion is not None:
        workload = replace(workload, completion=Lengths(median=completion, p95=completion), max_tokens=completion)
    if curve is not None:
        workload = replace(workload, curve=curve_of(curve))
    return replace(asked, workload=workload)


def _with_choices(
    asked: PlanFile,
    models: list[str] | None,
    weights: str,
    acceptance: str | None,
    machines: list[str] | None,
    first_token: float | None,
    tokens_per_s: float | None,
) -> PlanFile:
    """The plan file's models, machines and objectives with what the command line says instead."""
    for flag, value in (("--first-token", first_token), ("--tokens-per-s", tokens_per_s)):
        if value is not None and not 0 < value < 1e6:
            fail(f"{flag} must be above 0, not {value:g}")
    wanted = asked.objectives
    wanted = replace(
        wanted,
        first_token_p95_s=first_token or wanted.first_token_p95_s,
        tokens_per_s=tokens_per_s or wanted.tokens_per_s,
    )
    chosen = asked.models
    if models:
        chosen = tuple(ModelChoice(name=name, weights=weights) for name in models)
    if acceptance is not None:
        chosen = tuple(
            replace(one, acceptance=_acceptance(acceptance)) for one in chosen or (ModelChoice(name="gemma-4-E2B"),)
        )
    return replace(asked, objectives=wanted, models=chosen, machines=tuple(machines) if machines else asked.machines)


def _acceptance(text: str) -> object:
    """Survival probabilities, or what `survival_of` knows by name."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def _print_machines() -> None:
    table = Table(box=None)
    for name in ("machine", "name", "cores", "int8 G/s", "GB/s", "GB", "watts", "price"):
        table.add_column(name, justify="left" if name in ("machine", "name") else "right")
    for key, one in known_machines().items():
        table.add_row(
            key, one.name, str(one.cores), f"{one.int8_gmacs:,.0f}", f"{one.bandwidth_gbs:g}", f"{one.memory_gb:g}",
            f"{one.watts:g}", f"{one.price:,.0f}",
        )  # fmt: skip
    out.print(table)
    tell("from public specifications (assets/capacity/machines.toml has the sources); prices in USD, assumed")


def print_plan(made: CapacityPlan) -> None:
    """The table, what it says, and what it stands on."""
    workload, prices = made.workload, made.prices
    tell(
        f"{workload.requests_per_day:,.0f} requests a day ({workload.source}), {workload.peak_rate:.3g} a second in "
        f"the busiest hour; wanted: first token within {made.objectives.first_token_p95_s:g} s, "
        f"{made.objectives.tokens_per_s:g} tokens a second of a stream, 95 % each"
    )
    table = Table(box=None)
    for name in ("row", "model", "machine", "speculation", "fits"):
        table.add_column(name, justify="right" if name == "row" else "left")
    for at, row in enumerate(made.rows, 1):
        fits = "yes" if row.fits else f"no: {row.constraint}"
        table.add_row(str(at), row.candidate.label, row.machine.key, row.speculation, fits)
    out.print(table)
    shown_rows = [(at, row) for at, row in enumerate(made.rows, 1) if row.peak is not None]
    for first in range(0, len(shown_rows), ABREAST):
        tell("")
        out.print(_figures_of(shown_rows[first : first + ABREAST], made))
    for at, row in enumerate(made.rows, 1):
        if row.broken:
            tell(f"row {at}: {row.broken}")
    best = made.cheapest
    if best is not None:
        cost = best.cost.total if best.cost else None
        price = "" if cost is None else f", {cost:,.2f} {prices.currency} a day"
        even = best.cost.break_even if best.cost else None
        cloud = "" if even is None else f"; cheaper than the stated cloud price from {even:,.0f} requests a day on"
        tell(
            f"least cost: {best.with_spares} x {best.machine.name}, {best.candidate.label}, speculation "
            f"{best.speculation}{price}{cloud}"
        )
    tell(f"{LEGEND}; data: {DATA}")


def _figures_of(rows: list[tuple[int, Sizing]], made: CapacityPlan) -> Table:
    """A table with a column for each row, so that it is no wider than a terminal."""
    table = Table(box=None)
    table.add_column("row")
    for at, _ in rows:
        table.add_column(str(at), justify="right")
    found = [figures(row, made.workload, made.prices) for _, row in rows]
    for name, heading in COLUMNS:
        table.add_row(
            heading,
            *("-" if f[name].value is None else f"{shown(f[name])} {MARKS[f[name].kind]}" for f in found),
        )
    return table
