"""The special tokens that enclose a tool call."""

from __future__ import annotations

from dataclasses import dataclass

from geminate.errors import ParameterError
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class CallTokens:
    """Ids of a dialect's tokens around a call, and around a string in it."""

    opened: int
    closed: int
    quote: int

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> CallTokens:
        """By the marks of the tokenizer's dialect.

        Raises:
            ParameterError: the dialect has no tool calls, or the tokenizer lacks a token of theirs.
        """
        syntax = tokenizer.dialect.tools
        if syntax is None:
            raise ParameterError("this model's family has no syntax for tool calls: it cannot call tools")
        found: list[int] = []
        for text in (syntax.opened, syntax.closed, syntax.quote):
            token = tokenizer.token_id(text)
            if token is None:
                raise ParameterError(f"this model's tokenizer has no {text} token: it cannot call tools")
            found.append(token)
        return cls(opened=found[0], closed=found[1], quote=found[2])
