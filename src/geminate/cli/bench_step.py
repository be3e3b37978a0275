"""``geminate bench step``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, say, user_errors, write_json
from geminate.cli.flags import JsonOpt, loading, options
from geminate.tools.bench.shapes import SHAPES
from geminate.tools.bench.step import StepBench, run

LOADING = loading("weights", "kv", "threads", weights="int4")


@options(LOADING)
@user_errors()
def step(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A model directory, or a shape.", show_default="gemma-4-E2B"),
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help=f"{', '.join(SHAPES)}, or a model directory.", show_default=False)
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="Row counts M, comma-separated; ratios are to the first.")
    ] = "1,2,3,4,5,6,8,12,16",
    context: Annotated[int, typer.Option("--context", help="Number of positions already in the KV cache.")] = 128,
    prefill: Annotated[
        int | None, typer.Option("--prefill", help="Number of prompt tokens to time.", show_default="512")
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", help="Use fewer layers.", show_default="all that fit in memory")
    ] = None,
    all_logits: Annotated[
        bool,
        typer.Option(
            "--all-logits", help="Passes give all logits, as sampling needs, and not the largest of each row."
        ),
    ] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Number of interleaved rounds.")] = 9,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Time passes over M rows of a real shape with random weights, beside the machine's ceilings."""
    if model is not None and shape is not None:
        fail(f"the shape is named twice: {model} and {shape}")
    shape = model or shape or "gemma-4-E2B"
    loaded, counts = LOADING.take(given), parse_rows(rows)
    bench = StepBench(
        shape,
        loaded.weights,
        kv=loaded.kv,
        threads=loaded.threads,
        context=context,
        prefill=prefill,
        layers=layers,
        all_logits=all_logits,
        on_message=say,
    )
    with Bars() as bars:
        result = {"shape": shape} | run(bench, counts, repeats, lambda done, total: bars.part("rounds", done, total))
    print_step(result)
    if json_out:
        write_json(result)


def parse_rows(text: str) -> list[int]:
    """Row counts of a comma-separated list."""
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"--rows must be numbers with commas between, not {text!r}")
    if not all(1 <= m <= 256 for m in rows) or len(set(rows)) != len(rows):
        fail(f"--rows must be different numbers from 1 to 256, not {text!r}")
    return rows


def print_step(r: dict[str, Any]) -> None:
    """The table, ceiling first."""
    of = "" if r["layers"] == r["of_layers"] else f" ({r['layers']} of {r['of_layers']} layers)"
    out.print(
        f"{r['shape']}{of}, {r['weights']}, context {r['context']} in {r['kv']}; {r['isa']}, {r['threads']} threads"
        + (", all logits" if r["all_logits"] else "")
    )
    out.print(f"machine: {r['machine']}", markup=False)
    read, macs, attention = r["weight_bytes"] + r["kv_bytes"], r["macs_per_row"], r["attention_macs_per_row"]
    peak = r["int8_gmacs"] / (4 if r["kv"] == "f16" else 1)
    by_bytes = read / r["bandwidth_gbps"] / 1e6
    by_macs = (macs / r["int8_gmacs"] + attention / peak) / 1e6
    out.print(
        f"ceiling: {read / 1e9:.3f} GB at {r['bandwidth_gbps']} GB/s = {by_bytes:.1f} ms a pass; "
        f"{macs / 1e9:.2f} G multiply-accumulates at {r['int8_gmacs']} G/s and {attention / 1e9:.2f} G of attention "
        f"at {peak:.1f} G/s = {by_macs:.1f} ms a row"
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
        f"{100 * r['prefill_peak_share']:.0f} % of the int8 peak at {r['prefill_macs_per_token'] / 1e9:.2f} G "
        f"multiply-accumulates a token; {r['prefill_full_tokens_per_s']} with every row in every layer"
    )
