"""``geminate plan``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, plural, say, tell, user_errors, write_json
from geminate.cli.flags import Group, JsonOpt, options
from geminate.replacing import replacing
from geminate.tools.capacity.explain import explain as explained
from geminate.tools.capacity.figures import MARKS, shown
from geminate.tools.capacity.html_report import html_report
from geminate.tools.capacity.machines import known_machines
from geminate.tools.capacity.make_plan import Choices, make_plan
from geminate.tools.capacity.measure import this_machine
from geminate.tools.capacity.options import PlanOptions
from geminate.tools.capacity.plan_file import PlanFile, read_plan
from geminate.tools.capacity.report import COLUMNS, DATA, CapacityPlan, figures, plan_json
from geminate.tools.capacity.sizing import QUICK, Effort, Sizing

OPTIONS = Group(PlanOptions)
ABREAST = 5  # rows of a plan in one table of figures
LEGEND = "m: measured on this machine, c: computed (simulated), a: assumed"


@options(OPTIONS)
@user_errors()
def plan(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Plan file (TOML): workload, objectives, models, machines, prices."),
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
    **given: Any,
) -> None:
    """Which machines carry a load, how fast, and at what cost."""
    if list_machines:
        _print_machines()
        return
    chosen = OPTIONS.take(given)
    if html is not None and (html.is_dir() or not html.resolve().parent.is_dir()):
        fail(f"cannot write {html}: {'it is a directory' if html.is_dir() else 'its directory does not exist'}")
    stated = PlanFile() if file is None else read_plan(file)
    with OPTIONS.flagged():
        asked = chosen.applied(stated)
    with Bars(counted=False) as bars:
        choices = Choices(
            effort=QUICK if quick else Effort(),
            seed=seed,
            measure=not no_measure,
            threads=threads,
            on_part=lambda what, done, total: bars.part("plan", done, total, what),
            on_message=say,
        )
        made = make_plan(asked, choices, this_machine)
    _check(made, explain)
    print_plan(made)
    if explain is not None:
        tell("\n" + "\n".join(explained(made.rows[explain - 1], made)))
    if html is not None:
        with replacing(os.path.realpath(html), f".{html.name}-") as written:
            written.write(html_report(made).encode())
        say(f"report: {html}")
    if json_out:
        write_json(plan_json(made))


def _check(made: CapacityPlan, explain: int | None) -> None:
    """Stop where no machine can do it, or a row is asked for that does not exist."""
    if not made.possible:
        row = made.nearest
        fail(f"no machine meets the objectives; nearest is {row.candidate.label} on {row.machine.key}: {row.broken}")
    if explain is not None and explain > len(made.rows):
        fail(f"--explain names row {explain} of {len(made.rows)}")


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
        f"{plural(round(workload.requests_per_day), 'request')} a day ({workload.source}), "
        f"{workload.peak_rate:.3g} a second in the busiest hour; wanted: first token within "
        f"{made.objectives.first_token_p95_s:g} s, {made.objectives.tokens_per_s:g} tokens a second of a stream, "
        "95 % each"
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
    table.add_column("row", no_wrap=True)
    for at, _ in rows:
        table.add_column(str(at), justify="right")
    found = [figures(row, made.workload, made.prices) for _, row in rows]
    for name, heading in COLUMNS:
        table.add_row(
            heading,
            *("-" if f[name].value is None else f"{shown(f[name])} {MARKS[f[name].kind]}" for f in found),
        )
    return table
