"""Bad requests: the right status, OpenAI's shape, the field's name, and never a traceback."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from geminate.server.app import create_app
from geminate.server.settings import Settings
from geminate.server.state import ServerState
from support.serving import MODEL, chat_body

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}


def error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text and body["error"]["message"]
    assert response.headers["x-request-id"]
    return body["error"]


@pytest.mark.parametrize(
    "field",
    ["audio", "functions", "function_call", "web_search_options", "moderation", "made_up", "modalities", "best_of",
     "echo", "input", "background", "thinking", "enable_thinking", "mirostat", "guided_grammar"],
)  # fmt: skip
def test_unsupported_fields_are_named(client: httpx.Client, field: str) -> None:
    value = {"modalities": ["audio"], "best_of": 2, "mirostat": 2}.get(field, True)
    assert error(client.post(CHAT, json=chat_body(**{field: value})))["param"].split("[")[0] == field
    assert client.post(CHAT, json=chat_body(max_tokens=1, **{field: None})).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"), ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_k": -2}, "top_k"), ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"), ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"), ({"seed": -2}, "seed"), ({"seed": 2**63}, "seed"),
        ({"seed": 10**50}, "seed"), ({"n": 0}, "n"), ({"n": 1.0}, "n"), ({"n": 17}, "n"), ({"n": 10**9}, "n"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"stop": [3]}, "stop[0]"), ({"stop": ["a"] * 17}, "stop"), ({"stop": 3}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"), ({"logit_bias": {"9999999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "a"}}, "logit_bias.5"), ({"stop_token_ids": [8192]}, "stop_token_ids"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"speculation": 17}, "speculation"), ({"speculation": "fast"}, "speculation"),
        ({"speculation": True}, "speculation"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"tools": []  , "tool_choice": "required"}, "tool_choice"), ({"tool_choice": "required"}, "tool_choice"),
        ({"parallel_tool_calls": "yes", "tools": [{"type": "function", "function": {"name": "a"}}]},
         "parallel_tool_calls"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
         "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}] * 2}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "function",
         "function": {"name": "b"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}},
         "response_format"),
        ({"response_format": {"type": "regex", "regex": "("}}, "response_format"),
        ({"response_format": {"type": "grammar", "grammar": "nothing"}}, "response_format"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, "reasoning_effort"),
        ({"chat_template_kwargs": {"date": "x"}}, "chat_template_kwargs.date"),
        ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "made_up": 1}]}, "messages[0].made_up"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f",
         "arguments": 1}}]}]}, "messages[0].tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_bad_values_are_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    assert error(client.post(CHAT, json=chat_body(**fields)))["param"] == param


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_text_only(client: httpx.Client, kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "data:,"}}]}]
    found = error(client.post(CHAT, json=chat_body(messages=messages)))
    assert "text only" in found["message"] and found["param"].startswith("messages[0].content[1]")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a": "\xc3"}', b'{"a": NaN}', b'{"a": Infinity}', b"{'a': 1}",
     b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000, b'{"temperature": 1e999}', b'{"seed": ' + b"9" * 5000 + b"}",
     b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', b"\x00" * 100],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/responses", "/tokenize", "/detokenize"])
def test_what_is_no_json(client: httpx.Client, body: bytes, path: str) -> None:
    error(client.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types(client: httpx.Client, kind: str | None) -> None:
    """A web page of another origin can send these without being asked."""
    request = client.build_request("POST", CHAT, content=json.dumps(chat_body(max_tokens=1)))
    request.headers.pop("content-type", None)
    if kind is not None:
        request.headers["content-type"] = kind
    assert "application/json" in error(client.send(request))["message"]


def test_models_paths_and_methods(client: httpx.Client) -> None:
    assert error(client.post(CHAT, json=chat_body() | {"model": "gpt-4"}), 404)["code"] == "model_not_found"
    unknown = error(client.get("/v1/nothing"), 404)
    assert unknown["code"] == "not_found"
    assert "/v1/nothing" in unknown["message"] and "/v1/chat/completions" in unknown["message"]
    for path, method, word in (
        ("/chat/completions", "POST", "base URL that ends with /v1, so the route is /v1/chat/completions"),
        ("/v1/chat/completions/", "POST", "write it as /v1/chat/completions,"),
        ("/v1//models", "GET", "write it as /v1/models,"),
        ("/v1/v1/models", "GET", "so the route is /v1/models"),
        ("/v1/tokenize", "POST", "the route is /tokenize"),
        ("/v1/embeddings", "POST", "no embeddings"),
        ("/embeddings", "POST", "no embeddings"),
        ("/v1/responses/resp_1", "GET", "nothing is stored"),
        ("/v1", "GET", "routes: "),
        ("/" + "x" * 5000, "GET", "routes: "),
    ):
        message = error(client.request(method, path), 404)["message"]
        assert word in message and len(message) < 1500, message
    wrong = client.get(CHAT)
    assert error(wrong, 405)["message"] == f"{CHAT} does not support GET; use POST"
    assert wrong.headers["allow"] == "POST"
    missing = {k: v for k, v in chat_body().items() if k != "model"}
    assert error(client.post(CHAT, json=missing))["param"] == "model"


def test_context(client: httpx.Client) -> None:
    """At the context minus one there is room for one token; at it, none."""
    for length, status in ((2047, 200), (2048, 400), (5000, 400)):
        response = client.post(COMPLETIONS, json={"model": MODEL, "prompt": [5] * length})
        assert response.status_code == status, response.text
        if status == 200:
            assert response.json()["usage"]["completion_tokens"] == 1
        else:
            assert error(response)["code"] == "context_length_exceeded"
    assert error(client.post(CHAT, json=chat_body("word " * 3000)))["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ([[]], "prompt[0]"),
        ([8192], None),
        ([-1], "prompt[0]"),
        ([1, "a"], "prompt[1]"),
        (3, "prompt"),
        ([["a"]], "prompt[0][0]"),
        (["a"] * 17, "prompt"),
    ],
)
def test_prompts(client: httpx.Client, prompt: object, param: str | None) -> None:
    found = error(client.post(COMPLETIONS, json={"model": MODEL, "prompt": prompt, "max_tokens": 1}))
    assert found["param"] == param


def test_tokenize(client: httpx.Client) -> None:
    for body in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, {"prompt": "a", "tools": []}):
        error(client.post("/tokenize", json=body))
    assert error(client.post("/detokenize", json={"tokens": [8192]}))["param"] == "tokens"
    assert error(client.post("/tokenize", json={"prompt": "a", "model": "b"}), 404)["param"] == "model"


def test_request_ids(client: httpx.Client) -> None:
    assert client.get("/v1/models", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for odd in ("a b", "x" * 200, 'q"'):
        made = client.get("/v1/models", headers={"X-Request-Id": odd}).headers["x-request-id"]
        assert made.startswith("req_")


def test_the_unforeseen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """500 with the request's id and no cause; the log has the cause."""

    def broken(self: ServerState) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(ServerState, "check_ready", broken)
    app = create_app(None, None, Settings())

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            return await client.get("/v1/models")

    with caplog.at_level("ERROR", logger="geminate.server"):
        answer = asyncio.run(send())
    found = error(answer, 500)
    assert answer.headers["x-request-id"] in found["message"] and "secret" not in answer.text
    assert any(record.exc_info and "a secret" in str(record.exc_info[1]) for record in caplog.records)
