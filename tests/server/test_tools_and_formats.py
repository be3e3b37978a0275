"""Tools together with a response format, as clients send them: a completion is calls, or text in that format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from support.serving import MODEL, Served

# Bodies as pydantic-ai, the Agents SDK, langchain and instructor sent them; those of the AI SDK are written by hand.
RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded_tools_and_formats.json").read_text())
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "now",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with Served() as made:
        yield made.ready()


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def parts(answer: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bool]:
    """Text, calls, and whether it ended by itself; of either API."""
    if answer["object"] == "response":
        items = answer["output"]
        text = "".join(p["text"] for i in items if i["type"] == "message" for p in i["content"])
        calls = [(i["name"], i["arguments"]) for i in items if i["type"] == "function_call"]
        return text, calls, answer["status"] == "completed"
    (choice,) = answer["choices"]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in choice["message"].get("tool_calls") or ()]
    return choice["message"]["content"] or "", calls, choice["finish_reason"] != "length"


def ask(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


@pytest.mark.parametrize("case", RECORDED, ids=[case["client"] for case in RECORDED])
def test_recorded_requests(client: httpx.Client, case: dict[str, Any]) -> None:
    body = case["body"]
    if case["path"] == CHAT:
        form = body["response_format"]["json_schema"]["schema"]
        tools = {t["function"]["name"]: t["function"]["parameters"] for t in body["tools"]}
    else:
        form = body.get("text", {}).get("format", {}).get("schema")
        tools = {t["name"]: t["parameters"] for t in body["tools"]}
    most = "max_tokens" if case["path"] == CHAT else "max_output_tokens"
    ended = 0
    for seed in range(4):
        answers = [
            ask(client, case["path"], **{**body, most: 150, "seed": seed, "temperature": 1.0, "speculation": mode})
            for mode in ("off", "auto", 4)
        ]
        text, calls, whole = parts(answers[0])
        assert [parts(answer) for answer in answers[1:]] == [(text, calls, whole)] * 2
        if not whole:
            continue
        ended += 1
        assert bool(text) != bool(calls)
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), tools[name])
        if text:
            jsonschema.validate(json.loads(text), form)
    assert ended


def test_tool_choices(client: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "response_format": FORM, "tools": [TOOL]}
    body |= {"max_tokens": 60, "temperature": 1.0}
    for seed in range(4):
        for choice in ("required", {"type": "function", "function": {"name": "now"}}):
            text, calls, whole = parts(
                ask(client, CHAT, **body, seed=seed, tool_choice=choice, parallel_tool_calls=False)
            )
            assert whole and not text and [json.loads(a)["zone"] in ("UTC", "CET") for _, a in calls] == [True]
        for options in ({"tool_choice": "none"}, {"tool_choice": "auto"}, {"parallel_tool_calls": False}, {}):
            text, calls, whole = parts(ask(client, CHAT, **body, seed=seed, **options))
            assert whole and (not calls or options.get("tool_choice") != "none")
            assert calls or set(json.loads(text)) == {"city"}
        thought = ask(client, CHAT, **body, seed=seed, chat_template_kwargs={"enable_thinking": True})
        text, calls, whole = parts(thought)
        assert not whole or calls or set(json.loads(text)) == {"city"}


def test_either_is_forced_by_a_bias(client: httpx.Client) -> None:
    """Both kinds of completion are reached in one request's grammar, whole and as a stream."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "response_format": FORM, "tools": [TOOL]}
    body |= {"max_tokens": 60, "temperature": 0, "parallel_tool_calls": False}
    for bias in (-100.0, 100.0):
        wanted = {**body, "logit_bias": {"48": bias}}
        text, calls, whole = parts(ask(client, CHAT, **wanted))
        assert whole and bool(calls) == (bias > 0) and bool(text) == (bias < 0)
        response = client.post(CHAT, json={**wanted, "stream": True})
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
        assert "".join(d.get("content") or "" for d in deltas) == text
        sent = [c["function"].get("arguments", "") for d in deltas for c in d.get("tool_calls", ())]
        assert "".join(sent) == "".join(arguments for _, arguments in calls)


def test_which_of_the_two_is_at_fault(client: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    bad = {"type": "array", "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": bad}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"properties": {"a": bad}}}}
    for changed, param in (({"response_format": form, "tools": [TOOL]}, "response_format"),
                           ({"response_format": FORM, "tools": [tool]}, "tools")):  # fmt: skip
        response = client.post(CHAT, json={**body, **changed})
        assert response.status_code == 400 and "uniqueItems" in response.text
        assert response.json()["error"]["param"] == param


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=10)
    age: int = Field(le=30, ge=0)


def test_the_openai_client_parses_either(server: Served) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as made:
        tool = openai.pydantic_function_tool(Pet, name="keep")
        for bias in ({"48": -100}, {"48": 100}):
            parsed = made.chat.completions.parse(
                model=MODEL, messages=[{"role": "user", "content": "A pet"}], response_format=Pet, tools=[tool],
                max_tokens=90, temperature=1.0, seed=2, logit_bias=bias, parallel_tool_calls=False,
            )  # fmt: skip
            message = parsed.choices[0].message
            if message.tool_calls:
                assert isinstance(message.tool_calls[0].function.parsed_arguments, Pet)
            else:
                assert isinstance(message.parsed, Pet)
