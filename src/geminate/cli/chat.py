"""``geminate chat``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from geminate.cli.console import err, fail, say, user_errors, write
from geminate.cli.figures import summary
from geminate.cli.flags import SAMPLING, SpeculationOpt, loading, options, sampling
from geminate.cli.model import load
from geminate.output import Output
from geminate.params import SamplingParams, parse_speculation
from geminate.session import ChatSession

HELP = """/help     show this text
/reset    forget the conversation
/stats    show figures of the last answer
/exit     leave (also Ctrl-D)
Ctrl-C    stop the answer, keep the conversation"""


LOADING = loading("model", "drafter", "weights", "threads", "rope_position", "use_cache", "check", "prefault")
PARAMS = sampling("max_tokens", *SAMPLING, max_tokens=512)


@options(LOADING, PARAMS)
@user_errors()
def chat(
    speculation: SpeculationOpt = "auto",
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Turn the model's thinking mode on or off.")
    ] = None,
    **given: Any,
) -> None:
    """Talk to a model; /help lists the commands."""
    loaded, params = LOADING.take(given), PARAMS.take(given)
    parse_speculation(speculation)
    llm = load(loaded)
    talk = Talk(llm.session(system=system, enable_thinking=thinking), params, speculation)
    interactive = sys.stdin.isatty()
    if interactive:
        say("/help lists the commands")
    while True:
        line = _read_line(interactive)
        if line is None or line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            talk.command(line)
        elif line:
            talk.answer(line)


def _read_line(interactive: bool) -> str | None:
    """The next line without its ends; empty after Ctrl-C, None at the end of input."""
    if interactive:
        err.print("> ", end="")
    try:
        raw = sys.stdin.buffer.readline()
    except KeyboardInterrupt:
        err.print()
        return ""
    if not raw:
        return None
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        fail("standard input is not UTF-8; convert it first, e.g. with iconv")


class Talk:
    """A conversation on the terminal."""

    def __init__(self, session: ChatSession, params: SamplingParams, speculation: str) -> None:
        self.session, self.params, self.speculation = session, params, speculation
        self.last: Output | None = None

    def command(self, line: str) -> None:
        """Run a line that begins with a slash."""
        if line == "/reset":
            self.session.reset()
        elif line == "/stats":
            say(summary(self.last) if self.last else "no answer yet")
        else:
            if line != "/help":
                say(f"unknown command {line.split()[0]}")
            say(HELP)

    def answer(self, line: str) -> None:
        """Stream the answer to a message; Ctrl-C ends it and keeps the conversation."""
        try:
            for delta in self.session.stream(line, self.params, speculation=self.speculation):
                write(delta.text)
                self.last = delta.output or self.last
        except KeyboardInterrupt:
            say("\n(stopped)")
        write("\n")
