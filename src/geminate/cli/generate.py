"""``geminate generate``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any

import typer

from geminate.audit.options import AuditOptions
from geminate.cli.audited import answered, opened
from geminate.cli.console import fail, harmless, out, put, say, user_errors, write, write_json
from geminate.cli.figures import Counting, limit_reached, stats_json, summary
from geminate.cli.flags import SAMPLING, Group, SpeculationOpt, loading, options, remark_on, sampling, speculation_of
from geminate.cli.inputs import grammar_of, model_and_prompt
from geminate.cli.model import load
from geminate.cli.prompt_bar import PromptBar
from geminate.cli.terminal import unechoed
from geminate.cli.wrap import Wrapping
from geminate.engine.messages import EngineRequest
from geminate.grammar.state import Grammar
from geminate.llm import LLM
from geminate.loading.options import LoadOptions
from geminate.output import Delta, Output
from geminate.params import SamplingParams

LOADING = loading()
AUDIT = Group(AuditOptions, "audit_log", "audit_content", "audit_fsync")
PARAMS = sampling("max_tokens", *SAMPLING, "stop", "ignore_eos", "logprobs")


@options(LOADING, PARAMS, AUDIT)
@user_errors()
def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] [PROMPT]", help="What to say; - or nothing reads standard input."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The same as the argument PROMPT.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Read the prompt, or what follows it, from this file; - is standard input."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Turn the model's thinking mode on or off.")
    ] = None,
    json_schema: Annotated[
        str | None, typer.Option("--json-schema", help="Answer in JSON that satisfies this schema: text or a file.")
    ] = None,
    regex: Annotated[str | None, typer.Option("--regex", help="Answer with what this pattern matches.")] = None,
    grammar: Annotated[
        str | None, typer.Option("--grammar", help="Answer with what this Lark grammar produces: text or a file.")
    ] = None,
    speculation: SpeculationOpt = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No remarks and no figures on stderr.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    **given: Any,
) -> None:
    """Answer a prompt, streamed to stdout; figures go to stderr. Models without a chat template continue the text."""
    loaded, params, audit = LOADING.take(given), PARAMS.take(given), AUDIT.take(given)
    if params.logprobs is not None and not json_out:
        fail("--logprobs needs --json: there is no place for them in plain text")
    if raw and (system is not None or thinking is not None):
        fail("--raw continues the text as it is: --system and --thinking belong to the chat template")
    speculation_of(speculation)
    # Whatever can be found wrong before is found before the model is loaded, which may take minutes.
    spec = grammar_of(json_schema, regex, grammar)
    named = None if loaded.model is None else str(loaded.model)
    chosen, text = model_and_prompt(words or [], named, file, prompt)
    if not raw and not text.strip():
        fail("the prompt is empty; with --raw the model begins a text of its own")
    if not quiet and (remark := remark_on(params)):
        say(remark)
    with opened(audit) as log:
        loaded = LoadOptions(**vars(loaded) | {"model": chosen})
        llm = load(loaded, quiet=quiet)
        asked = _Asked(llm, text, system=system, raw=raw, thinking=thinking)
        request = asked.request(params, speculation, None if spec is None else llm.grammars.compile(spec))
        bar = PromptBar(shown=not quiet)
        with closing(answered(llm, request, bar, log, loaded, asked.messages)) as deltas:
            stream = bar.before(deltas)
            if json_out:
                write_json(_body(list(stream)[-1].output, params))
            else:
                _show(stream, params, quiet=quiet, wrapped=spec is None)


class _Asked:
    """A prompt as the model gets it: through its chat template, or as it is."""

    def __init__(self, llm: LLM, text: str, *, system: str | None, raw: bool, thinking: bool | None) -> None:
        self.llm, self.text, self.thinking = llm, text, thinking
        if llm.tokenizer is None:
            fail("this model has no tokenizer.json, so it takes no text; put that of the original model beside it")
        self.raw = raw or llm.template is None
        if self.raw and (system is not None or thinking is not None):
            fail("this model has no chat template: --system and --thinking have no effect")
        self.messages = [{"role": "user", "content": text}]
        if system is not None:
            self.messages.insert(0, {"role": "system", "content": system})

    def request(self, params: SamplingParams, speculation: str, grammar: Grammar | None) -> EngineRequest:
        """What the engine is asked."""
        llm = self.llm
        if not self.raw:
            return llm.chat_request(
                self.messages,
                params,
                enable_thinking=self.thinking,
                speculation=speculation,
                grammar=grammar,
                want_progress=True,
            )
        assert llm.tokenizer is not None
        bos = llm.tokenizer.bos_id
        if bos is not None and not params.ignore_eos:
            # What a model writes behind a bos is another text, not more of this one.
            params = dataclasses.replace(params, stop_token_ids=(*params.stop_token_ids, bos))
        return llm.request(llm.encode(self.text), params, speculation=speculation, grammar=grammar, want_progress=True)


def _body(made: Output | None, params: SamplingParams) -> dict[str, Any]:
    assert made is not None  # the last delta has it
    body: dict[str, Any] = {
        "text": made.text,
        "token_ids": made.token_ids,
        "finish_reason": made.finish_reason,
        "seed": made.seed,
        "stats": stats_json(made),
    }
    if made.reasoning:
        body["reasoning"] = made.reasoning
    if params.logprobs is not None:
        body["logprobs"] = [
            {"token": lp.token, "logprob": lp.logprob, "top": [list(t) for t in lp.top]} for lp in made.logprobs
        ]
    return body


def _show(stream: Iterator[Delta], params: SamplingParams, *, quiet: bool, wrapped: bool) -> None:
    """Print an answer as it comes; Ctrl-C ends it, with figures of what was made.

    Args:
        wrapped: end lines between words on a terminal; text that programs read is left as it is.
    """
    counting, figures = Counting(), ""
    printer = _Printer(wrapped=wrapped)
    try:
        with unechoed(forget=True):  # what is typed into the answer would stand in it
            for delta in stream:
                counting.add(delta)
                printer.print(delta)
                if delta.output is not None:
                    limit = limit_reached(delta.output, params.max_tokens)
                    figures = "; ".join(filter(None, (summary(delta.output), limit)))
        write("\n")
    except KeyboardInterrupt:
        if counting.tokens:
            write("\n")
        if not quiet:
            say(counting.stopped())
        raise typer.Exit(130) from None
    if not quiet:
        say(figures)


class _Printer:
    """The parts of an answer on stdout; thoughts are for terminals alone."""

    def __init__(self, *, wrapped: bool) -> None:
        self._terminal = sys.stdout.isatty()
        self._wrapping = Wrapping() if wrapped and self._terminal else None
        self._thought = ""

    def print(self, delta: Delta) -> None:
        """A part."""
        if delta.reasoning:
            self._thought += delta.reasoning
            if self._terminal:
                out.print(harmless(delta.reasoning), style="dim", end="", markup=False, soft_wrap=True)
        if delta.text:
            if self._thought and self._terminal:
                write("\n")
            self._thought = ""
            if self._wrapping is None:
                write(delta.text)
            else:
                put(self._wrapping.wrap(harmless(delta.text)))
