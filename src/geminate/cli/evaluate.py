"""``geminate eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from geminate import machine
from geminate.cli.bars import Bars
from geminate.cli.console import fail, out, read_text, say, tell, user_errors, write_json
from geminate.cli.flags import JsonOpt, ModelArg, loading, options
from geminate.kv.store import KVFormat, check_kv
from geminate.loading.options import LoadOptions
from geminate.tools.evaluate.kv import evaluate_kv
from geminate.tools.evaluate.run import Evaluation, evaluate
from geminate.tools.evaluate.score import Score
from geminate.weights.presets import Preset, check_preset

WORST_GROUPS = 12


LOADING = loading("adapter", "threads", "use_cache")


@options(LOADING)
@user_errors()
def evaluate_command(
    model: ModelArg = None,
    text: Annotated[Path | None, typer.Option("--text", help="A plain text file, UTF-8.", show_default=False)] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", help="Weight format to evaluate; repeatable.", show_default="int8, int4+, int4"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Compare with this model's bf16 weights.", show_default="the model itself"),
    ] = None,
    context: Annotated[int, typer.Option("--context", help="Tokens per window.")] = 512,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Number of tokens of the text to use.")] = 8192,
    kv: Annotated[
        str | None,
        typer.Option("--kv", help="Evaluate this KV format instead: against f16 KV with the same weights."),
    ] = None,
    by_tensor: Annotated[
        str | None, typer.Option("--by-tensor", help="Show which tensors lose the most quality in this format.")
    ] = None,
    json_out: JsonOpt = False,
    **given: Any,
) -> None:
    """Perplexity, KL divergence and top-1 agreement of weight or KV formats, teacher-forced on a text.

    Weight formats are compared with bf16; with --kv, a KV format with float16 keys and values.

    Lower KL is better; below 0.01 nats the difference is hardly noticeable.
    """
    loaded = LOADING.take(given)
    if text is None:
        fail("name a text with --text FILE: plain text like what the model is used for")
    presets = [check_preset(name) for name in weights or (("int8", "int4+", "int4") if kv is None else ("int8",))]
    if kv is not None:
        if reference is not None or by_tensor is not None:
            fail("--kv compares KV formats of the same weights: leave out --reference and --by-tensor")
        _kv(model, read_text(text), presets, check_kv(kv), context, max_tokens, loaded, json_out)
        return
    with Bars() as bars:
        found = evaluate(
            model,
            read_text(text),
            presets,
            adapters=loaded.adapters,
            reference=reference,
            context=context,
            max_tokens=max_tokens,
            by_tensor=None if by_tensor is None else check_preset(by_tensor),
            threads=loaded.threads,
            use_cache=loaded.use_cache,
            on_message=say,
            progress=lambda name, done, total: bars.part("packing", done, total),
            on_rows=lambda done, total: bars.part("positions", done, total),
        )
    show(found)
    if json_out:
        write_json({"benchmark": "eval", "machine": machine.describe(), "context": context, **found.as_dict()})


def _kv(
    model: str | None,
    text: str,
    presets: list[Preset],
    kv: KVFormat,
    context: int,
    max_tokens: int,
    loaded: LoadOptions,
    json_out: bool,
) -> None:
    with Bars() as bars:
        found = evaluate_kv(
            model,
            text,
            presets,
            kv,
            adapters=loaded.adapters,
            context=context,
            max_tokens=max_tokens,
            threads=loaded.threads,
            use_cache=loaded.use_cache,
            on_message=say,
            progress=lambda name, done, total: bars.part("packing", done, total),
            on_rows=lambda done, total: bars.part("positions", done, total),
        )
    tell(
        f"{found.positions:,} positions in {found.windows} windows of {found.model}; KV cache of a window: "
        f"{found.bytes_f16 / 1e6:,.1f} MB in f16, {found.bytes_kv / 1e6:,.1f} MB in {kv}"
    )
    table = Table("weights", "perplexity, f16 KV", f"{kv} KV", "KL (nats)", "worst 1 %", "top-1", box=None)
    for each in found.scores:
        s = each.score
        table.add_row(each.preset, f"{each.perplexity_f16:.3f}", f"{s.perplexity:.3f}", *_quality(s))
    out.print(table)
    if json_out:
        write_json({"benchmark": "eval-kv", "machine": machine.describe(), "context": context, **found.as_dict()})


def _quality(s: Score) -> tuple[str, str, str]:
    """KL with its error, what one position in a hundred exceeds, and the share of equal likeliest tokens."""
    error = "" if s.kl_error is None else f" ± {s.kl_error:.1g}"
    return f"{s.kl:.4g}{error}", f"{s.kl_p99:.3g}", f"{100 * s.top1:.2f} %"


def show(found: Evaluation) -> None:
    """Tables on stdout."""
    tell(f"{found.positions:,} positions in {found.windows} windows of {found.model}")
    table = Table("format", "MB a pass", "perplexity", "KL (nats)", "worst 1 %", "top-1", box=None)
    table.add_row("bf16", f"{found.bytes_bf16 / 1e6:,.1f}", f"{found.perplexity_bf16:.3f}", "", "", "")
    for each in found.formats:
        s = each.score
        table.add_row(each.preset, f"{each.streamed_bytes / 1e6:,.1f}", f"{s.perplexity:.3f}", *_quality(s))
    out.print(table)
    if found.by_tensor is None:
        return
    worst = sorted(found.by_tensor, key=lambda g: -(g.kl_per_mb or 0.0))[:WORST_GROUPS]
    table = Table("only this in that format", "KL (nats)", "top-1", "MB more in int8", "KL saved per MB", box=None)
    for g in worst:
        rate = "" if g.kl_per_mb is None else f"{g.kl_per_mb:.3g}"
        table.add_row(g.group, f"{g.score.kl:.4g}", f"{100 * g.score.top1:.2f} %", f"{g.bytes_to_int8 / 1e6:.2f}", rate)
    out.print(table)
