"""From emitted tokens to what a client receives: deltas of content, reasoning and tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from geminate.text.call_tokens import CallTokens
from geminate.text.detokenizer import Detokenizer
from geminate.text.dialect import CallReader
from geminate.text.stop import StopFilter
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyDelta:
    """A delta of a reply.

    Attributes:
        text: of content or reasoning, or the next part of a call's arguments as JSON.
        index: which tool call of this reply, from 0.
        call_id, name: of a tool call, with its first delta only.
    """

    kind: Literal["content", "reasoning", "tool_call"]
    text: str
    index: int = 0
    call_id: str | None = None
    name: str | None = None


class Reply(Protocol):
    """Splits one reply's tokens into content, reasoning and tool calls."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: generation ends, and nothing more is passed on."""
        ...

    @property
    def matched(self) -> str | None:
        """The stop string that is complete, or None."""
        ...

    def push(self, token: int) -> list[ReplyDelta]:
        """What is certain after one more token, often nothing; called with every emitted token in order."""
        ...

    def flush(self) -> list[ReplyDelta]:
        """What was held back, at the end; it may complete a stop string."""
        ...


class PlainReply:
    """Everything is content; special tokens are left out.

    Args:
        stops: stop strings; none of them is passed on, nor what follows it.

    Raises:
        ParameterError: an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._filter = StopFilter(stops)
        self.stopped = False

    @property
    def matched(self) -> str | None:
        """See `Reply`."""
        return self._filter.matched

    def push(self, token: int) -> list[ReplyDelta]:
        """See `Reply`."""
        return self.add(self._detokenizer.push(token))

    def add(self, text: str) -> list[ReplyDelta]:
        """Content that is no token's own text."""
        passed = self._filter.push(text)
        self.stopped = self._filter.matched is not None
        return [ReplyDelta(kind="content", text=passed)] if passed else []

    def flush(self) -> list[ReplyDelta]:
        """See `Reply`."""
        deltas = self.add(self._detokenizer.flush())
        held = "" if self.stopped else self._filter.flush()
        return [*deltas, ReplyDelta(kind="content", text=held)] if held else deltas


class ChatReply:
    """A chat's completion, split by the marks of the tokenizer's dialect: content, reasoning and tool calls.

    A call that is cut off keeps its arguments as far as they came, which are no JSON then; one that is cut off before
    its arguments begin is left out. A whole call that cannot be read is closed so that its arguments are JSON; one
    without a tool's name is content.

    Args:
        stops: stop strings, of content alone.
        tools: whether tool calls are parsed; else their text is content. A model without the tokens has no calls.
        thought: what the prompt says of a thought that it leaves open, see `open_thought`; None: it leaves none open.

    Raises:
        ParameterError: an empty stop string.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, tools: bool, thought: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._content = PlainReply(tokenizer, stops)
        self._thoughts = Detokenizer(tokenizer)
        self._thinking = False
        self._line: str | None = None  # the beginning of a channel while it may be its name
        self._call: CallReader | None = None
        self._calls = 0
        marks, syntax = tokenizer.dialect.reasoning, tokenizer.dialect.tools
        self._opened = None if marks is None else tokenizer.token_id(marks.opened)
        self._closed = None if marks is None else tokenizer.token_id(marks.closed)
        self._first_line = "" if marks is None else marks.line
        if thought is not None:
            self._thinking = True
            self._line = thought if len(thought) < len(self._first_line) else None
        self._tokens: CallTokens | None = None
        if tools and syntax is not None:
            texts = (syntax.opened, syntax.closed, syntax.quote)
            if all(tokenizer.token_id(text) is not None for text in texts):
                self._tokens = tokenizer.call_tokens()

    @property
    def stopped(self) -> bool:
        """See `Reply`."""
        return self._content.stopped

    @property
    def matched(self) -> str | None:
        """See `Reply`."""
        return self._content.matched

    def push(self, token: int) -> list[ReplyDelta]:
        """See `Reply`."""
        if self.stopped:
            return []
        if self._tokens is not None and token == self._tokens.opened:
            deltas = [*self._end_thought(), *self._end_call()]
            syntax = self._tokenizer.dialect.tools
            assert syntax is not None
            self._call = syntax.reader(self._tokenizer, self._tokens)
            return deltas
        if self._call is not None:
            return self._in_call(token)
        if token == self._opened:
            deltas = self._end_thought()
            self._thinking, self._line = True, ""
            return deltas
        if token == self._closed and self._thinking:
            return self._end_thought()
        if self._thinking:
            return self._thought(self._thoughts.push(token))
        return self._content.push(token)

    def flush(self) -> list[ReplyDelta]:
        """See `Reply`."""
        return [] if self.stopped else [*self._end_thought(), *self._end_call(cut=True), *self._content.flush()]

    def _thought(self, text: str, *, last: bool = False) -> list[ReplyDelta]:
        if self._line is not None:
            line, text = self._first_line, self._line + text
            if not last and len(text) < len(line) and line.startswith(text):
                self._line = text
                return []
            # A channel whose first line is something else keeps it.
            text = "" if text == line.strip() else text.removeprefix(line)
            self._line = None
        return [ReplyDelta(kind="reasoning", text=text)] if text else []

    def _end_thought(self) -> list[ReplyDelta]:
        if not self._thinking:
            return []
        deltas = self._thought(self._thoughts.flush(), last=True)
        self._thinking = False
        return deltas

    def _in_call(self, token: int) -> list[ReplyDelta]:
        assert self._call is not None and self._tokens is not None
        if token == self._tokens.closed:
            return self._end_call()
        known = self._call.name is not None
        return self._call_delta(self._call.push(token), known)

    def _call_delta(self, text: str, known: bool) -> list[ReplyDelta]:
        """One delta; the first of a call names it."""
        assert self._call is not None
        if self._call.name is None or (known and not text):
            return []
        head = (None, None) if known else (f"call_{secrets.token_hex(12)}", self._call.name)
        return [ReplyDelta(kind="tool_call", text=text, index=self._calls, call_id=head[0], name=head[1])]

    def _end_call(self, *, cut: bool = False) -> list[ReplyDelta]:
        if self._call is None:
            return []
        known = self._call.name is not None
        deltas = self._call_delta(self._call.cut() if cut else self._call.close(), known)
        if self._call.name is not None:
            self._calls += 1
        elif self._call.rest and not cut:
            deltas = self._content.add(self._call.rest)
        self._call = None
        return deltas


def open_thought(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> str | None:
    """What a prompt holds of a thought that it leaves open, the channel's line included; None if it leaves none open.

    Some templates open the thought themselves, for example behind a tool's result.
    """
    marks = tokenizer.dialect.reasoning
    if marks is None:
        return None
    opened = tokenizer.token_id(marks.opened)
    ends = {tokenizer.token_id(text) for text in (marks.closed, *tokenizer.dialect.turn_ends)}
    for at in range(len(prompt_ids) - 1, -1, -1):
        if prompt_ids[at] == opened:
            return tokenizer.decode(prompt_ids[at + 1 :])
        if prompt_ids[at] in ends:
            return None
    return None


def make_reply(
    kind: Literal["text", "chat", "tools"], tokenizer: Tokenizer, stops: Sequence[str], prompt_ids: Sequence[int]
) -> Reply:
    """A fresh parser: of plain text, of a chat's reply, or of one whose tool calls are parsed.

    Args:
        prompt_ids: what the reply follows; it may leave a thought open.

    Raises:
        ParameterError: an empty stop string.
    """
    if kind == "text":
        return PlainReply(tokenizer, stops)
    return ChatReply(tokenizer, stops, tools=kind == "tools", thought=open_thought(tokenizer, prompt_ids))
