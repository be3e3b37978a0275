"""``geminate bench decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, say, user_errors, write_json
from geminate.cli.flags import JsonOpt, ModelArg, loading, options, sampling
from geminate.cli.model import load
from geminate.engine.engine import Engine
from geminate.loading.options import LoadOptions
from geminate.params import MAX_DRAFT
from geminate.tools.bench.decode import BENCH80, BenchPrompt, Mode, engine_of_shape, random_prompts, read_prompts, run
from geminate.tools.bench.step import StepBench
from geminate.tools.bench.synthetic import Coin

LOADING = loading("adapter", "drafter", "weights", "kv", "threads")
PARAMS = sampling("max_tokens", "temperature", max_tokens=128, temperature=0.0)
ContextOpt = Annotated[
    int,
    typer.Option(
        "--context",
        min=0,
        help="Start every answer behind this many positions of random prompt; computed once, then taken from the "
        "prefix cache.",
    ),
]


@options(LOADING, PARAMS)
@user_errors()
def decode(
    model: ModelArg = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Random weights of this shape instead; needs synthetic acceptance.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="JSON lines with 'prompt' or 'turns'.", show_default="the 80 prompts of bench80"
        ),
    ] = None,
    survival: Annotated[
        str | None,
        typer.Option("--synthetic-acceptance", help="s_1,s_2,..: accept by a seeded coin with these survival rates."),
    ] = None,
    lengths: Annotated[str, typer.Option("--lengths", help="Fixed draft lengths to run as well.")] = "1,2,3,4",
    context: ContextOpt = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first prompts.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Number of runs per prompt and mode.")] = 3,
    layers: Annotated[int | None, typer.Option("--layers", help="With --shape: use fewer layers.")] = None,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Tokens per second plain, with fixed draft lengths and with auto, alternating on the same prompts."""
    loaded, params = LOADING.take(given), PARAMS.take(given)
    modes = parse_modes(lengths)
    rates = None if survival is None else parse_survival(survival)
    if shape is None:
        if layers is not None:
            fail("--layers goes with --shape")
        engine, chosen = _pair(LoadOptions(**vars(loaded) | {"model": model}), prompts or BENCH80, limit)
    else:
        if model is not None or prompts is not None or rates is None:
            fail("--shape has random weights: it goes with --synthetic-acceptance, not with MODEL or --prompts")
        bench = StepBench(
            shape,
            loaded.weights,
            kv=loaded.kv,
            threads=loaded.threads,
            context=max(context, 128),
            layers=layers,
            on_message=say,
        )
        engine, chosen = engine_of_shape(bench), random_prompts(bench.config.vocab_size, limit or 4)
    with Bars() as bars:
        result = run(
            engine,
            chosen,
            modes,
            max_tokens=params.max_tokens,
            repeats=repeats,
            temperature=params.temperature or 0.0,
            context=context,
            coin=None if rates is None else Coin(rates),
            on_run=lambda done, total: bars.part("runs", done, total),
        )
    result = {"model": shape or model or "embedded pair", "synthetic_acceptance": rates} | result
    print_decode(result)
    if json_out:
        write_json(result)


def _pair(options: LoadOptions, prompts: Path, limit: int | None) -> tuple[Engine, list[BenchPrompt]]:
    llm = load(options)
    if llm.pair.drafter is None:
        fail("this model has no drafter: nothing to compare with plain decoding; name one with --drafter")
    llm.measure_costs()
    return llm.engine, read_prompts(prompts, llm, limit)


def parse_modes(text: str) -> list[Mode]:
    """Plain, the draft lengths of a comma-separated list, and auto."""
    modes: list[Mode] = [0]
    for word in filter(None, (part.strip() for part in text.split(","))):
        if not word.isdigit() or not 1 <= int(word) <= MAX_DRAFT:
            fail(f"--lengths must be draft lengths from 1 to {MAX_DRAFT} with commas between, not {text!r}")
        modes.append(int(word))
    if len(set(modes)) != len(modes):
        fail(f"--lengths names a draft length twice: {text!r}")
    return [*modes, "auto"]


def parse_survival(text: str) -> list[float]:
    """Survival probabilities of a comma-separated list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        fail(f"--synthetic-acceptance must be numbers with commas between, not {text!r}")


def print_decode(r: dict[str, Any]) -> None:
    """The table, ceiling first."""
    kind = "" if r["synthetic_acceptance"] is None else f", synthetic acceptance {r['synthetic_acceptance']}"
    context = f", context {r['context']}" if r["context"] else ""
    out.print(
        f"{r['model']}, {r['weights']}, KV cache {r['kv']}{context}{kind}; {r['isa']}, {r['threads']} threads",
        markup=False,
    )
    out.print(f"machine: {r['machine']}", markup=False)
    out.print(f"ceiling: {r['ceiling']}x plain, the longest acceptance length, if drafts and rows cost nothing")
    table = Table(box=None)
    for column in ("mode", "tokens/s", "speed-up", "worst category", "tokens a round", "round p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column != "mode" else "left")
    for mode, rate in r["tokens_per_s"].items():
        gain = r["speedup_auto"] if mode == "auto" else r["speedup"].get(mode)
        spread = "" if gain is None else f"{gain['mean']:.2f} ({gain['spread'][0]:.2f}-{gain['spread'][1]:.2f})"
        table.add_row(
            mode,
            f"{rate:.1f}",
            spread,
            "" if gain is None else f"{gain['worst']:.2f}",
            f"{r['acceptance_length'][mode]:.2f}",
            f"{r['round_ms'][mode]['p50']:.2f}",
            f"{r['round_ms'][mode]['p99']:.2f}",
        )
    out.print(table)
    if r["speedup_auto"] is not None and len(r["speedup_auto"]["by_category"]) > 1:
        out.print("auto by category: " + ", ".join(f"{k} {x:.2f}" for k, x in r["speedup_auto"]["by_category"].items()))
    out.print(f"survival by position: {r['accepted_per_position']}", markup=False)
    out.print(
        f"auto's draft lengths (rounds): {r['auto_draft_lengths']}; prompt-lookup draft tokens (made, "
        f"accepted): {r['auto_copied']}; first token {r['first_token_ms']['plain']:.1f} ms",
        markup=False,
    )
