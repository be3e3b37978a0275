"""The report as one HTML file: no script, no outside resource, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from geminate.tools.capacity.charts import Series, bars, lines
from geminate.tools.capacity.explain import explain
from geminate.tools.capacity.figures import MARKS, Figure, shown
from geminate.tools.capacity.report import COLUMNS, DATA, CapacityPlan, figures, machine_figures
from geminate.tools.capacity.sizing import Sizing

STYLE = """
:root { color-scheme: light dark; --back: #fdfdfc; --text: #1d2327; --soft: #5b656d; --line: #d5d9dc; --off: #8a949b;
  --auto: #0b6e8f; --mark: #b3261e; --s0: #0b6e8f; --s1: #b45309; --s2: #4d7c0f; --s3: #7c3aed; --s4: #be185d;
  --s5: #57606a; }
@media (prefers-color-scheme: dark) { :root { --back: #14181b; --text: #e6eaec; --soft: #a3adb4; --line: #343c42;
  --off: #7d888f; --auto: #4fb3d4; --mark: #ff8a80; --s0: #4fb3d4; --s1: #f0a35e; --s2: #a3d977; --s3: #b79cff;
  --s4: #f48fb1; --s5: #c3cad0; } }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 92rem; padding: 1.5rem; } p, ul { max-width: 72rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.35rem 0.5rem; text-align: right; vertical-align: top; }
td:first-child { min-width: 10rem; }
th:first-child, td:first-child, .left { text-align: left; } sup { color: var(--soft); } .no { color: var(--mark); }
svg { width: 100%; min-width: 34rem; max-width: 46rem; height: auto; font-size: 12px; } svg text { fill: var(--text); }
.off { fill: var(--off); } .auto { fill: var(--auto); } .grid { stroke: var(--line); }
.mark { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 5 4; } polyline { fill: none; stroke-width: 2; }
""" + "".join(f".s{i} {{ stroke: var(--s{i}); }} circle.s{i} {{ fill: var(--s{i}); }}\n" for i in range(6))
HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>Geminate: capacity plan</title><style>{STYLE}</style></head><body>\n"
)


def html_report(plan: CapacityPlan) -> str:
    """The whole page."""
    parts = [HEAD, "<h1>Capacity plan</h1>", *_summary(plan), *_result_table(plan), *_charts(plan)]
    parts += [*_sensitivity(plan), *_machines(plan), *_arithmetic(plan), "</body></html>\n"]
    return "".join(parts)


def _summary(plan: CapacityPlan) -> Iterator[str]:
    workload, wanted, prices, best = plan.workload, plan.objectives, plan.prices, plan.cheapest
    yield (
        f"<p>{workload.requests_per_day:,.0f} request{'s' * (round(workload.requests_per_day) != 1)} a day "
        f"({escape(workload.source)}), {workload.peak_rate:.3g} a second in the busiest hour. "
        f"Wanted: first token within {wanted.first_token_p95_s:g} s for 95 % of "
        f"the requests, {wanted.tokens_per_s:g} tokens a second for 95 % of the streams"
        + (f", availability {wanted.availability:g}" if wanted.availability is not None else "")
        + ".</p>"
    )
    if best is not None:
        cost = best.cost.total if best.cost else None
        price = "" if cost is None else f", {cost:,.2f} {escape(prices.currency)} a day"
        yield (
            f"<p><strong>Least cost: {best.with_spares} x {escape(best.machine.name)} with "
            f"{escape(best.candidate.label)}, speculation {best.speculation}{price}.</strong></p>"
        )
    yield f"<p>Data: {escape(DATA)}.</p>"
    yield (
        '<p class="soft">Behind every number: m measured on this machine, c computed by simulating the engine, '
        "a assumed (specifications, prices, objectives).</p>"
    )


def _marked(figure: Figure) -> str:
    return "-" if figure.value is None else f"{shown(figure)}<sup>{MARKS[figure.kind]}</sup>"


def _result_table(plan: CapacityPlan) -> Iterator[str]:
    yield '<h2>Results</h2><div class="wide"><table><thead><tr><th scope="col">model, machine</th>'
    yield '<th scope="col" class="left">speculation</th><th scope="col" class="left">fits</th>'
    yield "".join(f'<th scope="col">{escape(heading)}</th>' for _, heading in COLUMNS)
    yield "</tr></thead><tbody>"
    for row in plan.rows:
        found = figures(row, plan.workload, plan.prices)
        fits = "yes" if row.fits else f'<span class="no">no: {escape(row.constraint)}</span>'
        yield f'<tr><td>{escape(_name(row))}</td><td class="left">{row.speculation}</td><td class="left">{fits}</td>'
        yield "".join(f"<td>{_marked(found[name])}</td>" for name, _ in COLUMNS)
        yield "</tr>"
    yield "</tbody></table></div>"
    reasons = dict.fromkeys(f"{_name(row)}, {row.speculation}: {row.broken}" for row in plan.rows if row.broken)
    if reasons:
        yield "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in reasons) + "</ul>"


def _name(row: Sizing) -> str:
    return f"{row.candidate.label}, {row.machine.key}"


def _charts(plan: CapacityPlan) -> Iterator[str]:
    wanted = plan.objectives
    rows = [row for row in plan.rows if row.peak is not None]
    if rows:
        yield '<h2>In the busiest hour</h2><p class="soft">Dashed lines: the objectives.</p>'
        first = [(f"{_name(row)}, {row.speculation}", row.speculation, row.peak.first_token(0.95)) for row in rows
                 if row.peak]  # fmt: skip
        yield "<h3>Time to first token, 95th percentile</h3>"
        yield bars("Time to first token", first, "s", wanted.first_token_p95_s)
        rate = [(f"{_name(row)}, {row.speculation}", row.speculation, row.peak.stream_rate(0.5)) for row in rows
                if row.peak]  # fmt: skip
        yield "<h3>Tokens a second of a stream, median</h3>"
        yield bars("Tokens a second of a stream", rate, "tokens/s", wanted.tokens_per_s)
    priced = [row for row in rows if row.cost is not None and row.cost.total is not None]
    if priced:
        yield "<h3>Cost a day</h3>"
        costs = [(f"{_name(row)}, {row.speculation}", row.speculation, row.cost.total) for row in priced
                 if row.cost and row.cost.total is not None]  # fmt: skip
        cloud = priced[0].cost.cloud if priced[0].cost else None
        yield bars("Cost a day", costs, plan.prices.currency, cloud)
        if cloud is not None:
            yield '<p class="soft">The dashed line is the stated cloud price of the same tokens.</p>'
    yield from _curves(rows, plan)


def _curves(rows: Sequence[Sizing], plan: CapacityPlan) -> Iterator[str]:
    for speculation in ("off", "auto"):
        chosen = [row for row in rows if row.speculation == speculation and row.load_curve][:6]
        if not chosen:
            continue
        yield f"<h3>First token against load on one machine, speculation {speculation}</h3>"
        series = [Series(name=_name(row), points=[(x, y) for x, y, _ in row.load_curve]) for row in chosen]
        yield lines(
            "First token against load", series, "requests a second", "p95, s", plan.objectives.first_token_p95_s
        )
    for speculation in ("off", "auto"):
        chosen = [row for row in rows if row.speculation == speculation and row.streams][:6]
        if not chosen:
            continue
        yield f"<h3>Tokens a second of a stream against streams at once, speculation {speculation}</h3>"
        series = [Series(name=_name(row), points=[(n, rate) for n, rate, _ in row.streams]) for row in chosen]
        yield lines("Streams at once", series, "streams at once", "tokens/s (p5)", plan.objectives.tokens_per_s)


def _sensitivity(plan: CapacityPlan) -> Iterator[str]:
    rows = [row for row in plan.rows if row.changes]
    if not rows:
        return
    yield '<h2>Sensitivity</h2><p class="soft">The busiest hour on the same machines with one thing changed; all c.</p>'
    yield '<div class="wide"><table><thead><tr><th scope="col">model, machine</th>'
    yield '<th scope="col" class="left">speculation</th><th scope="col" class="left">change</th>'
    yield '<th scope="col">first token p95 s</th><th scope="col">tokens/s (p5)</th>'
    yield '<th scope="col">utilisation %</th><th scope="col">refused</th></tr></thead><tbody>'
    for row in rows:
        for one in row.changes:
            yield (
                f'<tr><td>{escape(_name(row))}</td><td class="left">{row.speculation}</td>'
                f'<td class="left">{escape(one.what)}</td>'
                f"<td>{one.first_token_p95_s:.3g}</td><td>{one.tokens_per_s:.3g}</td>"
                f"<td>{100 * one.utilisation:.0f}</td><td>{one.refused}</td></tr>"
            )
    yield "</tbody></table></div>"


def _machines(plan: CapacityPlan) -> Iterator[str]:
    yield '<h2>Machines</h2><div class="wide"><table><thead><tr><th scope="col">machine</th>'
    machines = {row.machine.key: row.machine for row in plan.rows}
    heads = [
        f"{name.replace('_', ' ')} {figure.unit}".strip()
        for name, figure in machine_figures(next(iter(machines.values()))).items()
    ]
    yield (
        "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
        + '<th scope="col" class="left">source</th></tr></thead>'
    )
    yield "<tbody>"
    for machine in machines.values():
        known = list(machine_figures(machine).values())[: len(heads)]
        yield f"<tr><td>{escape(machine.name)}</td>" + "".join(f"<td>{_marked(figure)}</td>" for figure in known)
        yield f'<td class="left">{escape(machine.source)}</td></tr>'
    yield "</tbody></table></div>"
    bases = dict.fromkeys(
        f"{row.costs.basis}" + (f"; computed times may be {row.costs.error:.0%} off" if row.costs.error else "")
        for row in plan.rows
    )
    yield "<ul>" + "".join(f"<li>{escape(basis)}</li>" for basis in bases) + "</ul>"


def _arithmetic(plan: CapacityPlan) -> Iterator[str]:
    yield "<h2>Arithmetic</h2>"
    for row in plan.rows:
        yield f"<details><summary>{escape(_name(row))}, speculation {row.speculation}</summary><ul>"
        yield "".join(f"<li>{escape(line)}</li>" for line in explain(row, plan)) + "</ul></details>"
