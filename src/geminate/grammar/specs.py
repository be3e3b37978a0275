"""What a completion can be constrained to: JSON, JSON schemas, regular expressions, Lark grammars, tool calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True)
class JsonSchema:
    """JSON that satisfies a schema (Draft 2020-12, as far as `llguidance` goes); properties keep their order."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Regex:
    """Text that fully matches a regular expression (Rust syntax: no look-around, no back-references)."""

    pattern: str


@dataclass(frozen=True)
class Lark:
    """A context-free grammar in llguidance's dialect of Lark; its start rule is ``start``."""

    grammar: str


TextSpec = JsonObject | JsonSchema | Regex | Lark


@dataclass(frozen=True, kw_only=True)
class ToolCalls:
    """Tool calls in the syntax of the model's dialect.

    Attributes:
        tools: pairs of a name and the JSON schema of the arguments; None and an object whose ``properties`` are ``{}``
            mean no arguments, ``{"type": "object"}`` any.
        required: at least one call and no other text; otherwise free text, optionally followed by calls.
        parallel: allow several consecutive calls.
        strict: reject schemas that the syntax cannot fully enforce, instead of ignoring the unsupported keywords; for
            all tools, or for those named.
        answer: what a completion without calls is constrained to; the completion is then either calls and nothing
            else, or such an answer. Without effect if calls are ``required``.
    """

    tools: Sequence[tuple[str, Mapping[str, Any] | None]]
    required: bool = False
    parallel: bool = True
    strict: bool | Collection[str] = False
    answer: TextSpec | None = None


GrammarSpec = TextSpec | ToolCalls
Reasoning = bool | Literal["open"]
"""Whether reasoning may stand before the constrained part; ``open``: the prompt has begun it, so its rest must come."""
LABELS: dict[type[GrammarSpec], str] = {
    JsonObject: "the grammar",
    JsonSchema: "the JSON schema",
    Regex: "the regular expression",
    Lark: "the Lark grammar",
    ToolCalls: "the grammar of the tools",
}
