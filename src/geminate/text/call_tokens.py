"""The special tokens that enclose a tool call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CallTokens:
    """Ids of a dialect's tokens around a call, and around a string in it; see `Tokenizer.call_tokens`."""

    opened: int
    closed: int
    quote: int
