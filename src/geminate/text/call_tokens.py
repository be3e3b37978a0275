"""The special tokens that enclose a tool call."""

from __future__ import annotations

from dataclasses import dataclass

from geminate.errors import ParameterError
from geminate.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class CallTokens:
    """Ids of ``<|tool_call>``, ``<tool_call|>`` and ``<|"|>``."""

    opened: int
    closed: int
    quote: int

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> CallTokens:
        """By their strings.

        Raises:
            ParameterError: the tokenizer lacks one: the model does not call tools in this syntax.
        """
        found: list[int] = []
        for text in ("<|tool_call>", "<tool_call|>", '<|"|>'):
            token = tokenizer.token_id(text)
            if token is None:
                raise ParameterError(f"this model's tokenizer has no {text} token: it cannot call tools")
            found.append(token)
        return cls(opened=found[0], closed=found[1], quote=found[2])
