"""Requests of all kinds to a fleet, and whole streams, however they were cut into events."""

from __future__ import annotations

import json
from typing import Any

import httpx

MODEL = "geminate-embedded"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 300}, "n": {"type": "integer", "maximum": 9}},
    "required": ["title", "n"],
    "additionalProperties": False,
}
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.9},
    {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    {"temperature": 1.0, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {
        "temperature": 1.0,
        "tools": [{"type": "function", "function": {"name": "write", "parameters": SCHEMA}}],
        "tool_choice": "required",
    },
    {"temperature": 0.7, "stop": ["qqqq", "zzzz"], "logprobs": True, "n": 2},
)


def body_of(number: int) -> dict[str, Any]:
    """Request ``number``; the same each time."""
    fields = KINDS[number % len(KINDS)]
    plain = not {"tools", "response_format"} & fields.keys()
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Tell me story number {number}, please."}],
        "max_tokens": 400,
        "seed": number,
        "speculation": "off" if number % 3 else "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"ignore_eos": True} if plain else {}),
        **fields,
    }


def answer(url: str, number: int) -> dict[str, Any]:
    """A whole stream: text, calls, log-probabilities and finish reason of each choice, and what was counted."""
    texts: dict[int, str] = {}
    calls: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    ended: dict[int, list[str]] = {}
    usage, done = None, 0
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body_of(number), timeout=120) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: "):
                assert not line or line.startswith(":"), line
                continue
            if line == "data: [DONE]":
                done += 1
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                index = choice["index"]
                texts[index] = texts.get(index, "") + (choice["delta"].get("content") or "")
                for call in choice["delta"].get("tool_calls") or ():
                    calls[index] = calls.get(index, "") + json.dumps(call.get("function", {}).get("arguments", ""))
                if choice.get("logprobs"):
                    logprobs.setdefault(index, []).extend(choice["logprobs"]["content"])
                if choice.get("finish_reason"):
                    ended.setdefault(index, []).append(choice["finish_reason"])
    assert done == 1 and usage is not None
    return {
        "texts": texts,
        "calls": {index: text.replace('""', "") for index, text in calls.items()},
        "logprobs": logprobs,
        "ended": ended,
        "tokens": usage["completion_tokens"],
    }
