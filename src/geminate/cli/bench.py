"""``geminate bench step`` and ``geminate bench decode``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from geminate.bench import step as step_bench
from geminate.bench.shapes import SHAPES
from geminate.cli import common as c
from geminate.loading import FORMATS
from geminate.ops.packed import WeightFormat

app = typer.Typer(
    help="Measure this machine: pass times of real shapes, decoding speed of a pair.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
out = Console(highlight=False)

JsonOpt = Annotated[bool, typer.Option("--json", help="Also print the result as one JSON line, last.")]


def progress(what: str) -> Progress:
    """A bar on stderr, gone afterwards."""
    return Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=c.err, transient=True, disable=not c.err.is_terminal,
    )  # fmt: skip


def emit(result: dict[str, Any], wanted: bool) -> None:
    """The JSON line."""
    if wanted:
        sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def parse_rows(text: str) -> list[int]:
    """Row counts of a comma-separated list."""
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        c.fail(f"--rows must be numbers with commas between, not {text!r}")
    if not all(1 <= m <= 256 for m in rows) or len(set(rows)) != len(rows):
        c.fail(f"--rows must be different numbers from 1 to 256, not {text!r}")
    return rows


@app.command("step")
def step(
    shape: Annotated[str, typer.Option("--shape", help=f"{', '.join(SHAPES)}, or a model directory.")] = "gemma-4-E2B",
    weights: Annotated[str, typer.Option("--weights", help="int4, int8 or bf16.")] = "int4",
    rows: Annotated[str, typer.Option("--rows", help="Row counts M; ratios are to the first.")] = "1,2,3,4,5,6,8,12,16",
    context: Annotated[int, typer.Option("--context", help="Positions already in the cache.")] = 128,
    layers: Annotated[int | None, typer.Option("--layers", help="A shorter stack; default: all that fit.")] = None,
    threads: c.ThreadsOpt = None,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Interleaved rounds.")] = 9,
    json_out: JsonOpt = False,
) -> None:
    """Time passes over M rows of a real shape with random weights, beside the machine's ceilings."""
    with c.user_errors():
        if weights not in FORMATS:
            c.fail(f"--weights must be one of {', '.join(FORMATS)}, not {weights!r}")
        counts = parse_rows(rows)
        bench = step_bench.StepBench(
            shape, cast(WeightFormat, weights), threads=threads, context=context, layers=layers
        )
        with progress("rounds") as bar:
            task = bar.add_task("rounds", total=repeats)
            result = {"shape": shape} | step_bench.run(
                bench, counts, repeats, lambda done, total: bar.update(task, completed=done, total=total)
            )
        print_step(result)
        emit(result, json_out)


def print_step(r: dict[str, Any]) -> None:
    """The table, ceiling first."""
    of = "" if r["layers"] == r["of_layers"] else f" ({r['layers']} of {r['of_layers']} layers)"
    out.print(f"{r['shape']}{of}, {r['weights']}, context {r['context']}; {r['isa']}, {r['threads']} threads")
    out.print(f"machine: {r['machine']}", markup=False)
    by_bytes = r["weight_bytes"] / r["bandwidth_gbps"] / 1e6
    by_macs = r["macs_per_row"] / r["int8_gmacs"] / 1e6
    out.print(
        f"ceiling: {r['weight_bytes'] / 1e9:.3f} GB at {r['bandwidth_gbps']} GB/s = {by_bytes:.1f} ms a pass; "
        f"{r['macs_per_row'] / 1e9:.2f} G multiply-accumulates at {r['int8_gmacs']} G/s = {by_macs:.1f} ms a row"
    )
    table = Table(box=None)
    moe = "experts_per_layer" in r
    for name in ("M", "T(M) ms", "best ms", f"T(M)/T({r['ratio_to_rows']})", "of ceiling", *["experts"] * moe):
        table.add_column(name, justify="right")
    for m, ms in r["step_ms"].items():
        extra = [f"{r['experts_per_layer'][m]}"] if moe else []
        table.add_row(
            m, f"{ms:.2f}", f"{r['best_ms'][m]:.2f}", f"{r['ratio'][m]:.2f}", f"{r['ceiling_fraction'][m]:.2f}", *extra
        )
    out.print(table)
    if r["draft_step_ms"]:
        out.print(f"draft step {r['draft_step_ms']:.3f} ms, {100 * r['draft_step_share']:.2f} % of T(1)")
    out.print(
        f"prefill of {r['prefill_tokens']} tokens: {r['prefill_tokens_per_s']} tokens/s, "
        f"{100 * r['prefill_peak_share']:.0f} % of the int8 peak"
    )
