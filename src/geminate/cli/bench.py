"""``geminate bench step`` and ``geminate bench decode``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from geminate.cli import common as c
from geminate.engine.engine import Engine
from geminate.params import MAX_DRAFT
from geminate.tools.bench import decode as decode_bench
from geminate.tools.bench import step as step_bench
from geminate.tools.bench.shapes import SHAPES
from geminate.tools.bench.synthetic import Coin
from geminate.weights.presets import check_preset

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
    weights: Annotated[str, typer.Option("--weights", help="int4, int4+, int8 or bf16.")] = "int4",
    rows: Annotated[str, typer.Option("--rows", help="Row counts M; ratios are to the first.")] = "1,2,3,4,5,6,8,12,16",
    context: Annotated[int, typer.Option("--context", help="Positions already in the cache.")] = 128,
    layers: Annotated[int | None, typer.Option("--layers", help="A shorter stack; default: all that fit.")] = None,
    threads: c.ThreadsOpt = None,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Interleaved rounds.")] = 9,
    json_out: JsonOpt = False,
) -> None:
    """Time passes over M rows of a real shape with random weights, beside the machine's ceilings."""
    with c.user_errors():
        counts = parse_rows(rows)
        bench = step_bench.StepBench(shape, check_preset(weights), threads=threads, context=context, layers=layers)
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


def parse_modes(text: str) -> list[decode_bench.Mode]:
    """Plain, the draft lengths of a comma-separated list, and auto."""
    modes: list[decode_bench.Mode] = [0]
    for word in filter(None, (part.strip() for part in text.split(","))):
        if not word.isdigit() or not 1 <= int(word) <= MAX_DRAFT:
            c.fail(f"--lengths must be draft lengths from 1 to {MAX_DRAFT} with commas between, not {text!r}")
        modes.append(int(word))
    if len(set(modes)) != len(modes):
        c.fail(f"--lengths names a draft length twice: {text!r}")
    return [*modes, "auto"]


def parse_survival(text: str) -> list[float]:
    """Survival probabilities of a comma-separated list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        c.fail(f"--synthetic-acceptance must be numbers with commas between, not {text!r}")


@app.command("decode")
def decode(
    model: Annotated[str | None, typer.Argument(help="Directory or hub id; default: the embedded pair.")] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights of this shape instead; needs synthetic acceptance.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSON lines with 'prompt' or 'turns'; default: bench80.")
    ] = None,
    survival: Annotated[
        str | None,
        typer.Option("--synthetic-acceptance", help="s_1,s_2,..: a seeded coin instead of accept or reject."),
    ] = None,
    lengths: Annotated[str, typer.Option("--lengths", help="Fixed draft lengths to run as well.")] = "1,2,3,4",
    max_tokens: c.MaxTokens = 128,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first prompts.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every prompt in every mode.")] = 3,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0.0, help="0 is greedy.")] = 0.0,
    drafter: c.DrafterOpt = "auto",
    weights: c.WeightsOpt = "auto",
    layers: Annotated[int | None, typer.Option("--layers", help="With --shape: a shorter stack.")] = None,
    threads: c.ThreadsOpt = None,
    json_out: JsonOpt = False,
) -> None:
    """Tokens per second plain, with fixed draft lengths and with auto, in turn on the same prompts."""
    with c.user_errors():
        modes = parse_modes(lengths)
        rates = None if survival is None else parse_survival(survival)
        engine: Engine
        if shape is not None:
            if model is not None or prompts is not None or rates is None:
                c.fail("--shape has random weights: it goes with --synthetic-acceptance, not with MODEL or --prompts")
            bench = step_bench.StepBench(shape, check_preset(weights), threads=threads, layers=layers)
            engine = decode_bench.engine_of_shape(bench)
            chosen = decode_bench.random_prompts(bench.config.vocab_size, limit or 4)
        else:
            if layers is not None:
                c.fail("--layers goes with --shape")
            llm = c.load(model, drafter=drafter, weights=weights, threads=threads)
            if llm.pair.drafter is None:
                c.fail("this model has no drafter: nothing to compare with plain decoding; name one with --drafter")
            llm.measure_costs()
            engine = llm.engine
            chosen = decode_bench.read_prompts(prompts or decode_bench.BENCH80, llm, limit)
        coin = None if rates is None else Coin(rates)
        with progress("runs") as bar:
            task = bar.add_task("runs", total=None)
            result = decode_bench.run(
                engine, chosen, modes, max_tokens=max_tokens, repeats=repeats, temperature=temperature,
                coin=coin, on_run=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        name = shape or model or "embedded pair"
        result = {"model": name, "synthetic_acceptance": rates} | result
        print_decode(result)
        emit(result, json_out)


def print_decode(r: dict[str, Any]) -> None:
    """The table, ceiling first."""
    kind = "" if r["synthetic_acceptance"] is None else f", synthetic acceptance {r['synthetic_acceptance']}"
    out.print(f"{r['model']}, {r['weights']}{kind}; {r['isa']}, {r['threads']} threads", markup=False)
    out.print(f"machine: {r['machine']}", markup=False)
    out.print(f"ceiling: {r['ceiling']}x plain, the longest acceptance length, if guesses and rows cost nothing")
    table = Table(box=None)
    for column in ("mode", "tokens/s", "speed-up", "worst category", "tokens a round", "round p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column != "mode" else "left")
    for mode, rate in r["tokens_per_s"].items():
        gain = r["speedup_auto"] if mode == "auto" else r["speedup"].get(mode)
        spread = "" if gain is None else f"{gain['mean']:.2f} ({gain['spread'][0]:.2f}-{gain['spread'][1]:.2f})"
        table.add_row(
            mode, f"{rate:.1f}", spread, "" if gain is None else f"{gain['worst']:.2f}",
            f"{r['acceptance_length'][mode]:.2f}", f"{r['round_ms'][mode]['p50']:.2f}",
            f"{r['round_ms'][mode]['p99']:.2f}",
        )  # fmt: skip
    out.print(table)
    if r["speedup_auto"] is not None and len(r["speedup_auto"]["by_category"]) > 1:
        out.print("auto by category: " + ", ".join(f"{k} {x:.2f}" for k, x in r["speedup_auto"]["by_category"].items()))
    out.print(f"survival by position: {r['accepted_per_position']}", markup=False)
    out.print(f"auto's draft lengths (rounds): {r['auto_draft_lengths']}; copied guesses made and accepted: "
              f"{r['auto_copied']}; first token {r['first_token_ms']['plain']:.1f} ms", markup=False)  # fmt: skip
