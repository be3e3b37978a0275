"""``geminate eval``: what a weight format costs on a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from geminate import machine
from geminate.cli import common as c
from geminate.tools.evaluate.run import Evaluation, evaluate
from geminate.weights.presets import check_preset

ModelPos = Annotated[str | None, typer.Argument(help="Directory, GGUF or hub id; default: the embedded pair.")]
WORST_GROUPS = 12


def evaluate_command(
    model: ModelPos = None,
    text: Annotated[Path | None, typer.Option("--text", help="A plain text file, UTF-8.", show_default=False)] = None,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="A format; may be repeated; default: int8, int4+, int4.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Whose bf16 weights to compare with; default: the model's own.")
    ] = None,
    context: Annotated[int, typer.Option("--context", help="Tokens of a window.")] = 512,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Tokens of the text that are used.")] = 8192,
    by_tensor: Annotated[
        str | None, typer.Option("--by-tensor", help="Tell apart which tensors this format costs most.")
    ] = None,
    threads: c.ThreadsOpt = None,
    no_cache: c.NoCache = False,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON line, last.")] = False,
) -> None:
    """Perplexity, KL divergence and top-1 agreement of weight formats against bf16, teacher-forced on a text."""
    with c.user_errors():
        if text is None:
            c.fail("name a text with --text FILE: plain text like what the model is used for")
        presets = [check_preset(name) for name in weights or ("int8", "int4+", "int4")]
        apart = None if by_tensor is None else check_preset(by_tensor)
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=c.err, transient=True, disable=not c.err.is_terminal,
        )  # fmt: skip
        with bar:
            packing = bar.add_task("packing", total=None, visible=False)
            scoring = bar.add_task("positions", total=None)
            found = evaluate(
                model, c.read_text(text), presets, reference=reference, context=context, max_tokens=max_tokens,
                by_tensor=apart, threads=threads, use_cache=not no_cache, on_message=c.say,
                progress=lambda name, done, total: bar.update(packing, completed=done, total=total, visible=True),
                on_rows=lambda done, total: bar.update(scoring, completed=done, total=total),
            )  # fmt: skip
        show(found)
        if json_out:
            body = {"benchmark": "eval", "machine": machine.describe(), "context": context, **found.as_dict()}
            sys.stdout.write(json.dumps(body) + "\n")
            sys.stdout.flush()


def show(found: Evaluation) -> None:
    """Tables on stdout."""
    out = Console(highlight=False)
    out.print(f"{found.positions:,} positions in {found.windows} windows of {found.model}", soft_wrap=True)
    table = Table("format", "MB a pass", "perplexity", "KL (nats)", "worst 1 %", "top-1", box=None)
    table.add_row("bf16", f"{found.bytes_bf16 / 1e6:,.1f}", f"{found.perplexity_bf16:.3f}", "", "", "")
    for each in found.formats:
        s = each.score
        error = "" if s.kl_error is None else f" ± {s.kl_error:.1g}"
        table.add_row(
            each.preset, f"{each.streamed_bytes / 1e6:,.1f}", f"{s.perplexity:.3f}", f"{s.kl:.4g}{error}",
            f"{s.kl_p99:.3g}", f"{100 * s.top1:.2f} %",
        )  # fmt: skip
    out.print(table)
    if found.by_tensor is None:
        return
    worst = sorted(found.by_tensor, key=lambda g: -(g.kl_per_mb or 0.0))[:WORST_GROUPS]
    table = Table("alone in that format", "KL (nats)", "top-1", "MB more in int8", "KL saved per MB", box=None)
    for g in worst:
        rate = "" if g.kl_per_mb is None else f"{g.kl_per_mb:.3g}"
        table.add_row(g.group, f"{g.score.kl:.4g}", f"{100 * g.score.top1:.2f} %", f"{g.bytes_to_int8 / 1e6:.2f}", rate)
    out.print(table)
