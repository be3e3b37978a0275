"""``geminate verify``."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from geminate.cli.bars import Bars
from geminate.cli.console import fail, plural, printable, read_text, remark, say, user_errors, write, write_json
from geminate.cli.flags import ModelArg, loading, options, sampling
from geminate.cli.model import load
from geminate.cores import pick_threads
from geminate.errors import GeminateError
from geminate.kv.store import KV_FORMATS, KVFormat, check_kv
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.params import SamplingParams
from geminate.tools.exactness import Difference, Report, Setting, verify

EMBEDDED_PROMPTS = (
    "Once upon a time",
    "<bos><|turn>user\nWhat is 12 + 7?<turn|>\n<|turn>model\n",
    "<bos><|turn>user\nWrite a Python function. Return the sum of a list of numbers.<turn|>\n<|turn>model\n",
    "The capital of",
    # Longer than a block of the prefix cache, so that there is something to reuse.
    "<bos><|turn>user\nRead this. "
    + "A fox saw a boat on the river, and the boat had seven red bells. " * 12
    + "How many bells were there?<turn|>\n<|turn>model\n",
)


LOADING = loading("adapter", "drafter", "weights", "threads")
PARAMS = sampling("max_tokens", max_tokens=48)


@options(LOADING, PARAMS)
@user_errors()
def verify_command(
    model: ModelArg = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSON lines or plain lines.", show_default="a few texts")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first prompts.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Run every combination of settings instead of every pair.")
    ] = False,
    kv: Annotated[
        str | None, typer.Option("--kv", help="KV format to verify: f16 or int8.", show_default="both")
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the report as one JSON line.")] = False,
    **given: Any,
) -> None:
    """Prove on this machine that tokens and logits do not depend on speculation, threads, chunking or batch."""
    loaded, params = LOADING.take(given), PARAMS.take(given)
    counts = [1, max(2, loaded.threads or pick_threads().count)]

    formats = tuple(KV_FORMATS) if kv is None else (check_kv(kv),)

    @functools.cache
    def make(count: int, kv: KVFormat) -> LLM:
        quiet = (count, kv) != (counts[0], formats[0])
        return load(LoadOptions(**vars(loaded) | {"model": model, "threads": count, "kv": kv}), quiet=quiet)

    first = make(counts[0], formats[0])
    first.check_weights()
    numbered = [(0, one) for one in _default_prompts(first)] if prompts is None else read_prompts(prompts)
    chosen = _encoded(first, numbered[:limit], prompts, params.max_tokens)
    started = time.perf_counter()
    with Bars() as bars:
        report = verify(
            make,
            counts,
            chosen,
            SamplingParams(max_tokens=params.max_tokens, seed=7, ignore_eos=True),
            kvs=formats,
            full=full,
            on_run=lambda done, total: bars.part("verifying", done, total),
        )
    _print(report, time.perf_counter() - started, json_out)
    if report.difference is not None:
        remark("NOT identical: " + printable(_explain(report.difference)))
        raise typer.Exit(1)


def _default_prompts(llm: LLM) -> list[str | list[int]]:
    if llm.tokenizer is not None:
        return list(EMBEDDED_PROMPTS)
    vocab = llm.config.vocab_size
    step = max(1, vocab // 11)
    return [[(i * step + 3) % vocab for i in range(150)]]


def _encoded(llm: LLM, prompts: list[tuple[int, str | list[int]]], path: Path | None, most: int) -> list[list[int]]:
    """The prompts' tokens; stops where one leaves no room, and says where answers are shorter than asked for.

    Args:
        prompts: with the numbers of their lines in ``path``. most: tokens of an answer.
    """
    made, context, short = [], llm.context_length, 0
    for number, prompt in prompts:
        where = "" if path is None else f"{path}, line {number}: "
        try:
            ids = llm.encode(prompt)
        except GeminateError as error:
            fail(f"{where}{error}")
        if len(ids) >= context:
            fail(f"{where}the prompt has {len(ids):,} tokens and the context holds {context:,}; shorten it")
        short += len(ids) + most > context
        made.append(ids)
    if short:
        say(
            f"{plural(short, 'prompt')} and -n {most:,} tokens are more than the context of {context:,}: "
            "what fits is compared"
        )
    return made


def read_prompts(path: Path) -> list[tuple[int, str | list[int]]]:
    """Prompts of a file with the numbers of their lines: JSON with ``prompt`` (text or ids) or ``turns``, or text."""
    prompts: list[tuple[int, str | list[int]]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            prompts.append((number, line))
            continue
        try:
            item = json.loads(line)
            prompts.append((number, item["prompt"] if "prompt" in item else item["turns"][0]))
        except (ValueError, KeyError, IndexError, TypeError):
            fail(f"{path}, line {number}: expected JSON with 'prompt' or 'turns'")
    if not prompts:
        fail(f"{path} holds no prompts")
    return prompts


def _print(report: Report, seconds: float, as_json: bool) -> None:
    if as_json:
        write_json({**report.as_dict(), "seconds": round(seconds, 2)})
    elif report.identical:
        hashes = ", ".join(f"{value} ({kv} KV cache)" for kv, value in report.kv_hashes.items())
        write(
            f"identical: {plural(report.prompts, 'prompt')}, {plural(report.runs, 'run')}, "
            f"{plural(report.tokens, 'token')}, {plural(report.reused, 'prompt token')} from the prefix cache, "
            f"logits hash {hashes} ({seconds:.1f} s)\n"
        )


def _explain(d: Difference) -> str:
    return (
        f"prompt {d.prompt}, position {d.position}: token {d.plain_token} (top logits {d.plain_top}) with "
        f"{_describe(d.plain)}; token {d.other_token} (top logits {d.other_top}) with {_describe(d.other)}"
    )


def _describe(s: Setting) -> str:
    return (
        f"speculation {s.speculation}, {s.threads} threads, prefill chunk {s.prefill_chunk}, "
        f"batch: {s.batch}, temperature {s.temperature}, KV cache {s.kv}"
    )
