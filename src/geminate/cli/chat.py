"""``geminate chat``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from geminate.cli.console import fail, out, say, user_errors
from geminate.cli.flags import SAMPLING, ModelArg, SpeculationOpt, loading, options, remark_on, sampling, speculation_of
from geminate.cli.model import load
from geminate.cli.prompt import LEAVE, Reader, make_reader
from geminate.cli.render import Plain, Rendered
from geminate.cli.talk import Talk
from geminate.loading.options import LoadOptions

LOADING = loading()
LOADING.fields = [item for item in LOADING.fields if item.name != "model"]
PARAMS = sampling("max_tokens", *SAMPLING, max_tokens=1024)


@options(LOADING, PARAMS)
@user_errors()
def chat(
    model: ModelArg = None,
    speculation: SpeculationOpt = "auto",
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Turn the model's thinking mode on or off.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print answers as they are, Markdown not rendered.")] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not keep what is typed for the next time.")
    ] = False,
    **given: Any,
) -> None:
    """Talk to a model; /help lists the commands."""
    loaded, params = LOADING.take(given), PARAMS.take(given)
    speculation_of(speculation)
    if remark := remark_on(params):
        say(remark)
    llm = load(LoadOptions(**vars(loaded) | {"model": model}))
    if llm.template is None:
        fail("this model has no chat template: geminate generate continues a text without one")
    reader = make_reader(history=not no_history)
    shown = sys.stdout.isatty() and not plain
    talk = Talk(
        llm.session(system=system, enable_thinking=thinking),
        params,
        speculation,
        printer=(lambda: Rendered(out)) if shown else Plain,
    )
    if sys.stdin.isatty():
        say(f'/help lists the commands, """ or Alt-Enter writes several lines, {LEAVE}')
    converse(talk, reader)
    llm.close()


def converse(talk: Talk, reader: Reader) -> None:
    """Take messages and commands until one of them, or the end of input, ends it."""
    while (message := reader.read()) is not None:
        if message and not talk.take(message):
            return
