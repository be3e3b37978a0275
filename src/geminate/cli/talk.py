"""A conversation on the terminal: its commands and answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from geminate.cli.console import say
from geminate.cli.figures import Counting, details, limit_reached, summary
from geminate.cli.prompt_bar import PromptBar
from geminate.cli.render import Printer
from geminate.cli.terminal import unechoed
from geminate.errors import ContextFullError, GeminateError, ParameterError
from geminate.output import Delta, Output
from geminate.params import SamplingParams, parse_speculation
from geminate.session import ChatSession

HELP = """/help              show this text
/reset             forget the conversation
/compact           drop the oldest turns until half of the context is free
/retry             answer the last message again
/system [TEXT]     show or set the system message; /system - removes it
/set [NAME VALUE]  show or change a setting, such as /set temperature 0.7
/save FILE         write the conversation as JSON
/load FILE         go on with a saved conversation
/tokens            how much of the context is used
/stats             figures of the last answer
/exit              leave (also exit, quit, Ctrl-D)
Ctrl-C stops an answer and keeps it. \"\"\" begins and ends a message of several lines; Alt-Enter begins a new line.
A message that begins with / and is a path is sent; put a space before any other."""
NEARLY_FULL = 0.85  # of the context, from which it is said
_WORD = re.compile(r"/[a-z]+", re.IGNORECASE)
_SETTINGS = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed",
)  # fmt: skip
_SWITCH = {"on": True, "off": False, "auto": None}


class Talk:
    """A conversation.

    Args:
        printer: makes what prints an answer.
    """

    def __init__(
        self, session: ChatSession, params: SamplingParams, speculation: str, *, printer: Callable[[], Printer]
    ) -> None:
        self.session, self.params, self.speculation, self.printer = session, params, speculation, printer
        self.figures: list[str] = []
        self.unsent: str | None = None  # a message for which the context had no room
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP), "?": lambda _: say(HELP), "reset": self._reset,
            "compact": self._compact, "retry": self._retry,
            "system": self._system, "set": self._set, "save": self._save, "load": self._load, "tokens": self._tokens,
            "stats": lambda _: say("\n".join(self.figures) or "no answer yet"),
        }  # fmt: skip

    def take(self, message: str) -> bool:
        """A message or a command; False to leave."""
        word, _, rest = message.partition(" ")
        name = word[1:].lower()
        if (message.startswith("/") and name in ("exit", "quit", "bye")) or message in ("exit", "quit"):
            return False
        try:
            if message.startswith("/") and name in self._commands:
                self._commands[name](rest.strip())
            elif _WORD.fullmatch(word) and not _on_disk(word):
                say(f"unknown command {word}: /help lists them. To send it as a message, put a space before it.")
            else:
                self.answer(message)
        except GeminateError as error:
            say(f"error: {error}")
        return True

    def answer(self, message: str) -> None:
        """Send a message and print the answer."""
        bar = PromptBar()
        deltas = self.session.stream(message, self.params, speculation=self.speculation, on_prompt=bar)
        self._stream(deltas, bar, message)

    def _stream(self, deltas: Iterator[Delta], bar: PromptBar, message: str | None) -> None:
        """Print an answer; Ctrl-C ends it, and what came of it stays in the conversation."""
        counting = Counting()
        output: Output | None = None
        self.unsent = None
        try:
            # What is typed into the answer would shift the lines that are redrawn.
            with unechoed(forget=True):
                try:
                    start = next(deltas, None)  # before anything is drawn: what is refused is refused here
                finally:
                    bar.end()
                with self.printer() as printer:
                    while start is not None:
                        counting.add(start)
                        if start.reasoning:
                            printer.reasoning(start.reasoning)
                        if start.text:
                            printer.text(start.text)
                        output = start.output or output
                        start = next(deltas, None)
        except ContextFullError as error:
            self._too_long(message, error)
            return
        except KeyboardInterrupt:
            self._close(deltas)
            say("(stopped)")
        self.figures = [counting.stopped()] if output is None else [summary(output), details(output)]
        self._remarks(output)

    def _too_long(self, message: str | None, error: ContextFullError) -> None:
        if all(turn["role"] == "system" for turn in self.session.messages):
            say(f"your message is too long: {error.used:,} tokens, and the context holds {error.limit:,}")
            return
        self.unsent = message
        what = (
            "your message was not sent; /compact drops the oldest turns and sends it, /reset forgets the conversation"
        )
        if message is None:
            what = "/compact drops the oldest turns, /reset forgets the conversation"
        say(f"the context is full: this would be {error.used:,} tokens, and it holds {error.limit:,}. {what}")

    @staticmethod
    def _close(deltas: Iterator[Delta]) -> None:
        close = getattr(deltas, "close", None)  # an interrupt between two parts leaves it open
        if close is not None:
            close()

    def _remarks(self, output: Output | None) -> None:
        cut = None if output is None else limit_reached(output, self.params.max_tokens)
        if cut is not None:
            say(f"({cut.replace('-n, --max-tokens', '/set max_tokens N raises it')})")
        used, limit = self.session.context_used, self.session.context_length
        if used > NEARLY_FULL * limit:
            say(f"({_full(used, limit)}; /compact drops the oldest turns)")

    def _reset(self, _: str) -> None:
        self.session.reset()
        self.unsent = None
        say("the conversation is forgotten")

    def _compact(self, _: str) -> None:
        dropped, remark = self.session.compact(), ""
        used, limit = self.session.context_used, self.session.context_length
        if used > limit // 2:  # the last turn, which compacting keeps
            alone = f"the last turn alone takes {used:,} tokens, more than half of the context"
            if self.unsent is None:
                remark = f"; {alone}: it stays, /reset forgets it too"
            else:
                remark = f"; {alone}: it went too"
                dropped += sum(turn["role"] != "system" for turn in self.session.messages)
                self.session.reset()
        say(f"{_messages(dropped)} dropped{remark}; {_full(self.session.context_used, limit)}")
        if self.unsent is not None:
            self.answer(self.unsent)

    def _retry(self, _: str) -> None:
        bar = PromptBar()
        self._stream(self.session.retry(self.params, speculation=self.speculation, on_prompt=bar), bar, None)

    def _system(self, text: str) -> None:
        if text:
            self.session.system = None if text == "-" else text
        say(f"system message: {self.session.system or 'none'}")

    def _tokens(self, _: str) -> None:
        say(_full(self.session.context_used, self.session.context_length))

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        if name == "speculation" and value:
            parse_speculation(value)
            self.speculation = value
        elif name == "thinking" and value:
            if value not in _SWITCH:
                raise ParameterError("thinking is on, off or auto (as the template has it)")
            self.session.enable_thinking = _SWITCH[value]
        elif name in _SETTINGS and value:
            self.params = dataclasses.replace(self.params, **{name: _number(name, value)})
        elif name and name not in ("speculation", "thinking", *_SETTINGS):
            raise ParameterError(f"no setting {name}; there are {', '.join(_SETTINGS)}, speculation and thinking")
        thinking = next(word for word, value in _SWITCH.items() if value is self.session.enable_thinking)
        rows = {n: getattr(self.params, n) for n in _SETTINGS} | {
            "speculation": self.speculation, "thinking": thinking,
        }  # fmt: skip
        chosen = {name: rows[name]} if name else rows
        say("\n".join(f"{n:<19}{_setting(n, v)}" for n, v in chosen.items()))

    def _save(self, name: str) -> None:
        if not name:
            raise ParameterError("/save FILE: name a file")
        path = Path(name).expanduser()
        self.session.save(path)
        say(f"{_messages(len(self.session.messages))} written to {path}")

    def _load(self, name: str) -> None:
        if not name:
            raise ParameterError("/load FILE: name a file that /save wrote")
        self.session.load_file(Path(name).expanduser())
        say(f"{_messages(len(self.session.messages))}; {_full(self.session.context_used, self.session.context_length)}")


def _messages(count: int) -> str:
    return f"{count} message{'s' * (count != 1)}"


def _full(used: int, limit: int) -> str:
    if used > limit:  # what ends the answer in the next prompt counts, and was never in the context
        return f"the conversation takes {used:,} tokens, and the context holds {limit:,}: it is full"
    return f"{used:,} of {limit:,} tokens of the context are used ({100 * used // limit} %)"


def _setting(name: str, value: object) -> str:
    if value is None:
        return "drawn for each answer" if name == "seed" else "the model's own"
    return str(value)


def _number(name: str, value: str) -> Any:
    if value in ("default", "none", "auto"):
        return next(f.default for f in dataclasses.fields(SamplingParams) if f.name == name)
    try:
        return int(value) if name in ("max_tokens", "top_k", "seed") else float(value)
    except ValueError:
        raise ParameterError(f"{name} must be a number, not {value!r}") from None


def _on_disk(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False
