"""Tool calls that the token limit cuts off: unclosed arguments, whole names, nothing of the syntax in content."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.serving import stream

PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "force": {"type": "boolean"}},
    "required": ["path", "force"],
}
FUNCTION = {"name": "delete_files", "description": "Deletes.", "parameters": PARAMETERS}
CHAT = {
    "model": "geminate-embedded",
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello"}],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "required",
}
RESPONSE = {
    "model": "geminate-embedded",
    "temperature": 0,
    "input": "Hello",
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": "required",
}


def chat(client: httpx.Client, limit: int, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": limit, **more})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def streamed(client: httpx.Client, limit: int, **more: Any) -> tuple[str, list[tuple[str, str]], str]:
    """(content, calls, finish_reason) put together from a stream's deltas."""
    content, calls, reason = "", list[tuple[str, str]](), ""
    for chunk in stream(client, "/v1/chat/completions", {**CHAT, "max_tokens": limit, **more}):
        [choice] = chunk["choices"]
        content += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", ()):
            if call["index"] == len(calls):
                calls.append((call["function"]["name"], ""))
            calls[-1] = (calls[-1][0], calls[-1][1] + call["function"]["arguments"])
        reason = choice["finish_reason"] or reason
    return content, calls, reason


def test_every_cut_of_a_call(client: httpx.Client) -> None:
    whole = chat(client, 100)
    [call] = whole["message"]["tool_calls"]
    full = call["function"]["arguments"]
    assert whole["finish_reason"] == "tool_calls" and set(json.loads(full)) == {"path", "force"}
    seen = set()
    for limit in range(1, 24):
        choice = chat(client, limit)
        message, reason = choice["message"], choice["finish_reason"]
        calls = message.get("tool_calls", [])
        assert not message["content"], limit
        found = [(c["function"]["name"], c["function"]["arguments"]) for c in calls]
        assert streamed(client, limit) == ("", found, reason)
        if reason == "tool_calls":
            assert found == [("delete_files", full)]
            break
        assert reason == "length"
        for name, arguments in found:
            assert name == "delete_files" and full.startswith(arguments)
            if arguments != full:
                with pytest.raises(ValueError):
                    json.loads(arguments)
            seen.add(arguments)
    assert len(seen) > 4 and any('"force": ' in arguments for arguments in seen)


def test_every_cut_of_a_response(client: httpx.Client) -> None:
    full = client.post("/v1/responses", json={**RESPONSE, "max_output_tokens": 100}).json()["output"][0]["arguments"]
    cut = 0
    for limit in range(1, 24, 2):
        body = {**RESPONSE, "max_output_tokens": limit}
        made = client.post("/v1/responses", json=body).json()
        events = stream(client, "/v1/responses", body)
        deltas = "".join(e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta")
        if made["status"] == "completed":
            break
        assert made["status"] == "incomplete" and events[-1]["type"] == "response.incomplete"
        [item] = made["output"]
        if item["type"] == "message":
            assert item["content"][0]["text"] == "" == deltas
            continue
        cut += 1
        assert item["name"] == "delete_files" and item["status"] == "incomplete"
        assert full.startswith(item["arguments"]) and deltas == item["arguments"]
    assert cut > 3


def test_a_cut_call_behind_free_text(client: httpx.Client) -> None:
    """With tool_choice auto, the model's text stays and the call's beginning is no part of it."""
    opened = 48
    for limit in range(2, 8):
        choice = chat(client, limit, tool_choice="auto", logit_bias={str(opened): 100})
        assert not choice["message"]["content"] and choice["finish_reason"] == "length"
        assert "call" not in json.dumps(choice["message"].get("content"))
