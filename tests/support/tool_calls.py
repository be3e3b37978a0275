"""Gemma 4's call syntax written out, and the calls of a reply put together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from geminate.text.reply import ReplyDelta


def render(name: str, arguments: dict[str, Any]) -> str:
    """A call as the checkpoints' templates write it."""
    inside = ",".join(f"{key}:{literal(value)}" for key, value in arguments.items())
    return f"<|tool_call>call:{name}{{{inside}}}<tool_call|>"


def literal(value: object) -> str:
    """A value as the checkpoints' templates write it."""
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(literal(inner) for inner in value) + "]"
    return json.dumps(value)


def arguments_of(deltas: Iterable[ReplyDelta]) -> list[tuple[str, str]]:
    """(name, JSON text) of every call; checks how the deltas of a call follow each other."""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if delta.kind != "tool_call":
            continue
        if delta.index == len(calls):
            assert delta.call_id and delta.name
            calls.append((delta.name, delta.text))
        else:
            assert delta.index == len(calls) - 1 and delta.call_id is None and delta.name is None and delta.text
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.text)
    return calls
