"""The same conversation through every API is the same prompt and, with the same seed, the same tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.serving import MODEL

TOOL = {
    "name": "look_up",
    "description": "Looks something up",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}, "count": {"type": "integer"}}},
}
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
ARGUMENTS = st.fixed_dictionaries({"what": TEXTS, "count": st.integers(-9, 9)})


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    """A system text or None, and turns: what the user says, calls with results or None, what the model says."""
    turns = [
        (
            draw(TEXTS),
            [(draw(ARGUMENTS), draw(TEXTS)) for _ in range(draw(st.integers(0, 2)))],
            draw(TEXTS),
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    return {
        "system": draw(st.none() | TEXTS),
        "turns": turns,
        "question": draw(TEXTS),
        "thinking": draw(st.sampled_from([None, False, True])),
        "sampling": {
            "temperature": draw(st.sampled_from([0.0, 0.7, 1.5])),
            "top_k": draw(st.sampled_from([0, 5, 64])),
            "top_p": draw(st.sampled_from([0.5, 1.0])),
            "seed": draw(st.integers(0, 2**31)),
        },
        "speculation": draw(st.sampled_from(["off", "auto", 3])),
    }


def chat(talk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    messages: list[dict[str, Any]] = [] if talk["system"] is None else [{"role": "system", "content": talk["system"]}]
    number = 0
    for question, calls, answer in talk["turns"]:
        messages.append({"role": "user", "content": question})
        if calls:
            made, results = [], []
            for arguments, result in calls:
                function = {"name": "look_up", "arguments": json.dumps(arguments)}
                made.append({"id": f"c{number}", "type": "function", "function": function})
                results.append({"role": "tool", "tool_call_id": f"c{number}", "content": result})
                number += 1
            messages += [{"role": "assistant", "content": None, "tool_calls": made}, *results]
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": talk["question"]})
    body = {"messages": messages, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto"}
    if talk["thinking"] is not None:
        body["chat_template_kwargs"] = {"enable_thinking": talk["thinking"]}
    return "/v1/chat/completions", {**body, **talk["sampling"], "max_tokens": 8}


def responses(talk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    items: list[dict[str, Any]] = []
    number = 0
    for question, calls, answer in talk["turns"]:
        items.append({"role": "user", "content": question})
        results = []
        for arguments, result in calls:
            call = {"type": "function_call", "call_id": f"c{number}", "name": "look_up"}
            items.append({**call, "arguments": json.dumps(arguments)})
            results.append({"type": "function_call_output", "call_id": f"c{number}", "output": result})
            number += 1
        items += [*results, {"role": "assistant", "content": answer}]
    items.append({"role": "user", "content": talk["question"]})
    body: dict[str, Any] = {"input": items, "tools": [{"type": "function", **TOOL}]}
    if talk["system"] is not None:
        body["instructions"] = talk["system"]
    if talk["thinking"] is not None:
        body["reasoning"] = {"effort": "high" if talk["thinking"] else "none"}
    return "/v1/responses", {**body, **talk["sampling"], "max_output_tokens": 8}


def messages(talk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    number = 0
    for question, calls, answer in talk["turns"]:
        turns.append({"role": "user", "content": [{"type": "text", "text": question}]})
        if calls:
            uses, results = [], []
            for arguments, result in calls:
                uses.append({"type": "tool_use", "id": f"t{number}", "name": "look_up", "input": arguments})
                results.append({"type": "tool_result", "tool_use_id": f"t{number}", "content": result})
                number += 1
            turns += [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
        turns.append({"role": "assistant", "content": answer})
    turns.append({"role": "user", "content": talk["question"]})
    tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    body: dict[str, Any] = {"messages": turns, "tools": [tool], "tool_choice": {"type": "auto"}}
    if talk["system"] is not None:
        body["system"] = [{"type": "text", "text": talk["system"]}]
    if talk["thinking"] is not None:
        kind = {"type": "enabled", "budget_tokens": 1024} if talk["thinking"] else {"type": "disabled"}
        body["thinking"] = kind
    return "/v1/messages", {**body, **talk["sampling"], "max_tokens": 8}


def ollama(talk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    made: list[dict[str, Any]] = [] if talk["system"] is None else [{"role": "system", "content": talk["system"]}]
    for question, calls, answer in talk["turns"]:
        made.append({"role": "user", "content": question})
        if calls:
            called = [{"function": {"name": "look_up", "arguments": arguments}} for arguments, _ in calls]
            made.append({"role": "assistant", "content": "", "tool_calls": called})
            made += [{"role": "tool", "tool_name": "look_up", "content": result} for _, result in calls]
        made.append({"role": "assistant", "content": answer})
    made.append({"role": "user", "content": talk["question"]})
    body: dict[str, Any] = {"messages": made, "tools": [{"type": "function", "function": TOOL}], "stream": False}
    if talk["thinking"] is not None:
        body["think"] = talk["thinking"]
    return "/api/chat", {**body, "options": {**talk["sampling"], "num_predict": 8}}


def ids(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for line in answer["geminate"]["rounds"] for token in line["tokens"]]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(talk=conversations())
def test_every_api_has_the_same_tokens(client: httpx.Client, talk: dict[str, Any]) -> None:
    seen: dict[str, tuple[int, list[int]]] = {}
    for shape in (chat, responses, messages, ollama):
        path, body = shape(talk)
        answer = client.post(path, json={"model": MODEL, "trace": True, "speculation": talk["speculation"], **body})
        assert answer.status_code == 200, (path, answer.text)
        made = answer.json()
        if path == "/api/chat":
            prompt = made["prompt_eval_count"]
        else:
            usage = made["usage"]
            prompt = usage.get("prompt_tokens") or usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
        seen[path] = (prompt, ids(made))
    assert all(one == seen["/v1/chat/completions"] for one in seen.values()), (seen, talk)
