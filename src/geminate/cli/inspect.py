"""``geminate info`` and ``geminate verify``."""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from geminate.cli import common as c
from geminate.llm import LLM
from geminate.machine import physical_cores
from geminate.params import SamplingParams
from geminate.tools.exactness import Difference, Setting, verify

EMBEDDED_PROMPTS = (
    "Once upon a time",
    "<bos><|turn>user\nWhat is 12 + 7?<turn|>\n<|turn>model\n",
    "<bos><|turn>user\nWrite a Python function. Return the sum of a list of numbers.<turn|>\n<|turn>model\n",
    "The capital of",
    # Longer than a block of kept keys and values, so that there is something to keep.
    "<bos><|turn>user\nRead this. "
    + "A fox saw a boat on the river, and the boat had seven red bells. " * 12
    + "How many bells were there?<turn|>\n<|turn>model\n",
)

ModelPos = Annotated[str | None, typer.Argument(help="Directory or hub id; default: the embedded pair.")]


def describe(llm: LLM) -> dict[str, Any]:
    """Everything ``geminate info`` prints."""
    config, store, pair = llm.config, llm.pair.target.store, llm.pair
    kinds = [layer.kind for layer in config.layers]
    body: dict[str, Any] = {
        "model": str(pair.located.target),
        "model_type": config.model_type,
        "layers": {"total": len(kinds), "sliding": kinds.count("sliding_attention"),
                   "full": kinds.count("full_attention"),
                   "kv_shared": sum(layer.kv_shared for layer in config.layers)},
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "sliding_window": max(layer.window for layer in config.layers),
        "context": config.max_position_embeddings,
        "experts": None if config.moe is None else {"count": config.moe.num_experts, "top_k": config.moe.top_k},
        "weights": store.format,
        "parameters": store.parameters_by_kind(),
        "bytes": store.bytes_by_kind(),
        "on_disk_only": {"row_table": store.bytes_by_kind().get("row_table", 0)},
        "skipped": store.skipped,
        "packed_cache": None if store.path is None else str(store.path),
        "backend": {"name": pair.target.backend.name, "isa": pair.target.backend.isa,
                    "threads": pair.target.backend.threads},
        "tokenizer": None if llm.tokenizer is None else llm.tokenizer.vocab_size,
        "chat_template": llm.template is not None,
        "drafter": None,
    }  # fmt: skip
    if pair.drafter is not None:
        d = pair.drafter
        body["drafter"] = {
            "model": str(pair.located.drafter),
            "layers": len(d.config.text.layers),
            "hidden_size": d.config.text.hidden_size,
            "centroid_head": d.config.use_ordered_embeddings,
            "weights": d.store.format,
            "parameters": sum(d.store.parameters_by_kind().values()),
            "bytes": sum(d.store.bytes_by_kind().values()),
            "rope_position": d.rope_position,
        }
    return body


def info(
    model: ModelPos = None,
    drafter: c.DrafterOpt = "auto",
    weights: c.WeightsOpt = "auto",
    json_out: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Shape, parameters and bytes of a model, and the drafter found for it."""
    with c.user_errors():
        body = describe(c.load(model, drafter=drafter, weights=weights))
        if json_out:
            sys.stdout.write(json.dumps(body) + "\n")
            sys.stdout.flush()
            return
        table = Table(show_header=False, box=None)
        for key, value in body.items():
            table.add_row(key, json.dumps(value) if isinstance(value, dict) else str(value))
        from rich.console import Console

        Console(highlight=False).print(table)


def _describe_setting(s: Setting) -> str:
    return (
        f"speculation {s.speculation}, {s.threads} threads, prefill chunk {s.prefill_chunk}, "
        f"company: {s.company}, temperature {s.temperature}"
    )


def _explain(d: Difference) -> str:
    return (
        f"prompt {d.prompt}, position {d.position}: token {d.plain_token} (top logits {d.plain_top}) with "
        f"{_describe_setting(d.plain)}; token {d.other_token} (top logits {d.other_top}) with "
        f"{_describe_setting(d.other)}"
    )


def read_prompts(path: Path) -> list[str | list[int]]:
    """Prompts of a file: JSON lines with ``prompt`` (text or ids) or ``turns``, or plain lines of text."""
    prompts: list[str | list[int]] = []
    for number, line in enumerate(c.read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            prompts.append(line)
            continue
        try:
            item = json.loads(line)
            prompts.append(item["prompt"] if "prompt" in item else item["turns"][0])
        except (ValueError, KeyError, IndexError, TypeError):
            c.fail(f"{path}, line {number}: expected JSON with 'prompt' or 'turns'")
    if not prompts:
        c.fail(f"{path} holds no prompts")
    return prompts


def verify_command(
    model: ModelPos = None,
    drafter: c.DrafterOpt = "auto",
    weights: c.WeightsOpt = "auto",
    threads: c.ThreadsOpt = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSON lines or plain lines; default: a few.")
    ] = None,
    max_tokens: c.MaxTokens = 48,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first prompts.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Cross product of all settings instead of all pairs.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="The report as one JSON line on stdout.")] = False,
) -> None:
    """Prove on this machine that tokens and logits do not depend on speculation, threads, chunking or company."""
    with c.user_errors():
        params = SamplingParams(max_tokens=max_tokens, seed=7, ignore_eos=True)
        several = max(2, threads or physical_cores())
        counts = [1, several]

        @functools.cache
        def make(count: int) -> LLM:
            return c.load(model, drafter=drafter, weights=weights, threads=count, quiet=count != 1)

        chosen: list[str | list[int]]
        if prompts is not None:
            chosen = read_prompts(prompts)
        else:
            chosen = list(EMBEDDED_PROMPTS)
            first = make(1)
            if first.tokenizer is None:  # ids do as well
                step = max(1, first.config.vocab_size // 11)
                chosen = [[(i * step + 3) % first.config.vocab_size for i in range(150)]]
        chosen = chosen[:limit]
        bar = Progress(
            TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=c.err, transient=True, disable=not c.err.is_terminal,
        )  # fmt: skip
        started = time.perf_counter()
        with bar:
            task = bar.add_task("runs", total=None)
            report = verify(
                make, counts, chosen, params, full=full,
                on_run=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        seconds = time.perf_counter() - started
        if json_out:
            sys.stdout.write(json.dumps({**report.as_dict(), "seconds": round(seconds, 2)}) + "\n")
        elif report.identical:
            sys.stdout.write(
                f"identical: {report.prompts} prompts, {report.runs} runs, {report.tokens} tokens, "
                f"{report.reused} prompt tokens from kept prefixes, logits hash {report.logits_hash} "
                f"({seconds:.1f} s)\n"
            )
        sys.stdout.flush()
        if report.difference is not None:
            c.err.print("NOT identical: " + _explain(report.difference), markup=False, soft_wrap=True)
            raise typer.Exit(1)
