"""``geminate generate`` and ``geminate chat``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from geminate.cli import common as c
from geminate.llm import LLM
from geminate.loading.locate import is_model
from geminate.output import Output
from geminate.params import SamplingParams, parse_speculation


def summary(out: Output) -> str:
    """The line on stderr after an answer."""
    s = out.stats
    lengths = " ".join(f"{k}:{n}" for k, n in sorted(s.draft_lengths.items()))
    return (
        f"{s.generated_tokens} tokens, {s.tokens_per_s:.0f} tokens/s, {s.rounds} rounds, "
        f"acceptance length {s.acceptance_length:.2f}, draft length:rounds {lengths}, "
        f"prefill {s.prefill_s * 1000:.0f} ms, seed {out.seed}, {out.finish_reason}"
    )


def stats_json(out: Output) -> dict[str, object]:
    """Statistics under their API names."""
    s = out.stats
    return {
        "prompt_tokens": s.prompt_tokens, "generated_tokens": s.generated_tokens, "rounds": s.rounds,
        "drafted": s.drafted, "accepted": s.accepted, "accepted_per_position": s.accepted_per_position,
        "drafted_per_position": s.drafted_per_position, "acceptance_length": s.acceptance_length,
        "draft_lengths": s.draft_lengths, "copied": s.copied, "copied_accepted": s.copied_accepted,
        "prefill_s": s.prefill_s, "decode_s": s.decode_s,
        "tokens_per_s": s.tokens_per_s,
    }  # fmt: skip


def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] [PROMPT]", help="Text to continue; - or nothing reads standard input."),
    ] = None,
    model: c.ModelArg = None,
    drafter: c.DrafterOpt = "auto",
    weights: c.WeightsOpt = "auto",
    threads: c.ThreadsOpt = None,
    speculation: c.SpeculationOpt = "auto",
    rope_position: c.RopeOpt = "P",
    max_tokens: c.MaxTokens = 256,
    temperature: c.Temperature = None,
    top_k: c.TopK = None,
    top_p: c.TopP = None,
    min_p: c.MinP = None,
    seed: c.Seed = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past end-of-sequence tokens.")] = False,
    logprobs: Annotated[int | None, typer.Option("--logprobs", help="Top logprobs per token, with --json.")] = None,
    no_cache: c.NoCache = False,
    prefault: c.Prefault = False,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of text.")] = False,
) -> None:
    """Continue a text, streamed to stdout; figures go to stderr."""
    with c.user_errors():
        if logprobs is not None and not json_out:
            c.fail("--logprobs needs --json: there is no place for them in plain text")
        params = c.sampling(
            max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed,
            stop=stop, ignore_eos=ignore_eos, logprobs=logprobs,
        )  # fmt: skip
        parse_speculation(speculation)
        model, prompt = _model_and_prompt(words or [], model)
        text = c.read_stdin() if prompt in (None, "-") else str(prompt)
        llm = c.load(
            model,
            drafter=drafter,
            weights=weights,
            threads=threads,
            rope_position=rope_position,
            no_cache=no_cache,
            prefault=prefault,
        )
        if json_out:
            out = llm.generate(text, params, speculation=speculation)[0]
            body = {
                "text": out.text, "token_ids": out.token_ids, "finish_reason": out.finish_reason,
                "seed": out.seed, "stats": stats_json(out),
            }  # fmt: skip
            if logprobs is not None:
                body["logprobs"] = [
                    {"token": lp.token, "logprob": lp.logprob, "top": [list(t) for t in lp.top]} for lp in out.logprobs
                ]
            sys.stdout.write(json.dumps(body) + "\n")
            sys.stdout.flush()
            return
        finished = _show(llm, text, params, speculation)
        if finished is not None:
            c.say(summary(finished))


def _model_and_prompt(words: list[str], model: str | None) -> tuple[str | None, str | None]:
    """``MODEL PROMPT``, or one of them: a single word is a model if it is one on disk."""
    if len(words) > 2 or (len(words) == 2 and model is not None):
        c.fail(f"expected a model and a prompt, got {len(words) + (model is not None)} texts; quote the prompt")
    if len(words) == 2:
        return words[0], words[1]
    if len(words) == 1 and model is None and is_model(words[0]):
        return words[0], None
    return model, words[0] if words else None


def _show(llm: LLM, text: str, params: SamplingParams, speculation: str) -> Output | None:
    for delta in llm.stream(text, params, speculation=speculation):
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        if delta.output is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
            return delta.output
    return None


HELP = """/help     this text
/reset    forget the conversation
/stats    figures of the last answer
/exit     leave (also Ctrl-D)
Ctrl-C    stop the answer, keep the conversation"""


def chat(
    model: c.ModelArg = None,
    drafter: c.DrafterOpt = "auto",
    weights: c.WeightsOpt = "auto",
    threads: c.ThreadsOpt = None,
    speculation: c.SpeculationOpt = "auto",
    rope_position: c.RopeOpt = "P",
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    thinking: Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="Told to the template.")] = None,
    max_tokens: c.MaxTokens = 512,
    temperature: c.Temperature = None,
    top_k: c.TopK = None,
    top_p: c.TopP = None,
    min_p: c.MinP = None,
    seed: c.Seed = None,
    no_cache: c.NoCache = False,
    prefault: c.Prefault = False,
) -> None:
    """Talk to a model; /help lists the commands."""
    with c.user_errors():
        params = c.sampling(
            max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
        )
        parse_speculation(speculation)
        llm = c.load(
            model,
            drafter=drafter,
            weights=weights,
            threads=threads,
            rope_position=rope_position,
            no_cache=no_cache,
            prefault=prefault,
        )
        session = llm.session(system=system, enable_thinking=thinking)
        last: Output | None = None
        interactive = sys.stdin.isatty()
        if interactive:
            c.say("/help lists the commands")
        while True:
            if interactive:
                c.err.print("> ", end="")
            try:
                raw = sys.stdin.buffer.readline()
            except KeyboardInterrupt:
                c.err.print()
                continue
            if not raw:
                return
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError:
                c.fail("standard input is not UTF-8; convert it first, e.g. with iconv")
            if not line:
                continue
            if line.startswith("/"):
                if line in ("/exit", "/quit"):
                    return
                if line == "/reset":
                    session.reset()
                elif line == "/stats":
                    c.say(summary(last) if last else "no answer yet")
                else:
                    if line != "/help":
                        c.say(f"unknown command {line.split()[0]}")
                    c.say(HELP)
                continue
            try:
                for delta in session.stream(line, params, speculation=speculation):
                    sys.stdout.write(delta.text)
                    sys.stdout.flush()
                    last = delta.output or last
            except KeyboardInterrupt:
                c.say("\n(stopped)")
            sys.stdout.write("\n")
            sys.stdout.flush()
