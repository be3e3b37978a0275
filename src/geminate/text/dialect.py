"""The text-side marks of a family of models: turns, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from geminate.text.call_tokens import CallTokens
from geminate.text.detokenizer import TokenTexts


@dataclass(frozen=True, kw_only=True)
class ReasoningMarks:
    """Tokens around reasoning, and the line that follows the first of them."""

    opened: str
    closed: str
    line: str


class CallReader(Protocol):
    """Turns one tool call's tokens into JSON arguments as they come.

    Attributes:
        name: the tool, None until it is known.
    """

    name: str | None

    @property
    def rest(self) -> str:
        """The text of what is no call after all; certain after `close`."""
        ...

    def push(self, token: int) -> str:
        """JSON of the arguments that is certain after one more token."""
        ...

    def close(self) -> str:
        """The end of the arguments, behind the call's last token."""
        ...

    def cut(self) -> str:
        """What is known of arguments that end in the middle, without an end to them."""
        ...


class CallGrammar(Protocol):
    """Writes the Lark grammar of a completion that may (or must) call tools."""

    def __call__(
        self,
        tools: Sequence[tuple[str, Mapping[str, Any] | None]],
        tokens: CallTokens,
        *,
        required: bool,
        parallel: bool,
        strict: bool | Collection[str],
        ends: Sequence[int],
    ) -> str: ...


@dataclass(frozen=True, kw_only=True)
class ToolSyntax:
    """How tools are called.

    Attributes:
        opened, closed, quote: tokens around a call, and around a string in it.
        reader: makes a reader for one call. grammar: see `CallGrammar`.
    """

    opened: str
    closed: str
    quote: str
    reader: Callable[[TokenTexts, CallTokens], CallReader]
    grammar: CallGrammar


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A family's marks.

    Attributes:
        specials: special tokens by name, for checkpoints that do not name them.
        turn_ends: tokens that end the model's turn.
        reasoning, tools: None where the family has none.
    """

    specials: Mapping[str, str] = field(default_factory=dict)
    turn_ends: tuple[str, ...] = ()
    reasoning: ReasoningMarks | None = None
    tools: ToolSyntax | None = None


PLAIN = Dialect()
