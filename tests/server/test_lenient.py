"""Over HTTP: the header and the log name what had no effect, silent streams get comments, and strict servers refuse."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate.server.openai.docs_page import docs_page
from support.serving import MODEL, Served, chat_body, events, stream

CHAT, RESPONSES, HEADER = "/v1/chat/completions", "/v1/responses", "x-geminate-ignored"


@pytest.fixture(scope="module")
def strict(packed_cache: Path) -> Iterator[Served]:
    """A server that refuses fields without an effect, with one place and eager comments."""
    flags = ("--unknown-fields", "refuse", "--max-running", "1", "--keepalive-seconds", "0.1")
    with Served(*flags) as server:
        yield server.ready()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_header_and_the_log_name_them(served: Served, client: httpx.Client, streamed: bool) -> None:
    body = chat_body(max_tokens=2, metadata={"a": "b"}, stream=streamed, user="me", made_up=None)
    body["messages"][0]["name"] = "bob"
    name = f"ignored-{streamed}"
    answer = client.post(CHAT, json=body, headers={"X-Request-Id": name})
    assert answer.status_code == 200 and set(answer.headers[HEADER].split(", ")) == {"metadata", "messages[].name"}
    assert set(served.wait_log("request", request_id=name)["ignored"]) == {"metadata", "messages[].name"}
    assert HEADER not in client.post(CHAT, json=chat_body(max_tokens=2)).headers


def test_hints_change_nothing(client: httpx.Client) -> None:
    plain = chat_body(max_tokens=20, seed=3, temperature=1.0, top_k=0)
    other = chat_body(
        max_tokens=20, seed=3, temperature=1.0, top_k=-1, stop=[""], store=True, verbosity="low", repeat_penalty=1.0
    )
    first, second = (client.post(CHAT, json=body).json() for body in (plain, other))
    assert first["choices"] == second["choices"]


def test_the_smallest_nucleus_is_greedy(client: httpx.Client) -> None:
    bodies = [
        chat_body(max_tokens=30, seed=5, **fields) for fields in ({"temperature": 0}, {"temperature": 1.5, "top_p": 0})
    ]
    first, second = (client.post(CHAT, json=body).json() for body in bodies)
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize(
    ("field", "value"), [("metadata", {"a": "b"}), ("made_up", 1), ("top_k", -1), ("n_predict", 3), ("store", True)]
)
def test_a_strict_server_refuses_them(strict: Served, field: str, value: object) -> None:
    with strict.client() as client:
        refused = client.post(CHAT, json=chat_body(**{field: value}))
        assert (
            refused.status_code == 400 and refused.json()["error"]["param"] == field and HEADER not in refused.headers
        )
        assert client.post(CHAT, json=chat_body(max_tokens=1, **{field: None})).status_code == 200


def test_comments_on_silent_streams(strict: Served) -> None:
    """While the one place is taken, the others hear that they are not forgotten; so does a client of responses."""
    busy = chat_body(max_tokens=1500, n=8, ignore_eos=True, stream=True, speculation="off")
    with strict.client() as client, client.stream("POST", CHAT, json=busy) as running:
        begun = events(running)  # kept: a closed iteration would close the stream
        assert next(begun)
        for path, body in ((CHAT, chat_body(max_tokens=3)), (RESPONSES, {"model": MODEL, "input": "Hi"})):
            with client.stream("POST", path, json={**body, "stream": True}) as waiting:
                lines = (line for line in waiting.iter_lines() if line.startswith(":"))
                assert next(lines) == ":" and next(lines) == ":"
    strict.quiet()
    with strict.client() as client:
        assert stream(client, CHAT, chat_body(max_tokens=3))


def test_health_and_docs(served: Served, client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ready"} and client.head("/health").status_code == 200
    page = client.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for word in ("POST /v1/chat/completions", "max_completion_tokens", 'href="#ChatRequest"', 'id="ChatRequest"'):
        assert word in page.text
    for word in ("http://", "https://", "<script", " style="):
        assert word not in page.text


def test_docs_need_no_key(packed_cache: Path) -> None:
    with Served(env={"GEMINATE_API_KEYS": "a-key-of-the-tests"}) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/docs").status_code == 200 and client.get("/openapi.json").status_code == 401


def test_docs_escape_text() -> None:
    document: dict[str, Any] = {
        "info": {"title": "<b>", "version": "1"},
        "paths": {"/<i>": {"get": {"summary": "`a` <u>", "responses": {"200": {"description": "<s>"}}}}},
        "components": {"schemas": {"<q>": {"properties": {"<x>": {"enum": ["<y>"]}}}}},
    }
    page = docs_page(document)
    for tag in ("<b>", "<i>", "<u>", "<s>", "<q>", "<x>", "<y>"):
        assert tag not in page
    assert "<code>a</code>" in page


def _raw(server: Served, data: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            while more := sock.recv(65536):
                got += more
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET /v1/models HTTP/1.1\nHost: localhost\n\n", b"\x16\x03\x01\x02\x00"]
)
def test_what_is_no_http_gets_json(served: Served, data: bytes) -> None:
    head, body = _raw(served, data + b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/json" in head.lower() and b"connection: close" in head
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"} and "HTTP" in found["message"]


def test_an_upgrade_is_answered_without_advice(served: Served) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: up-1\r\nUpgrade: websocket\r\n"
    head, _ = _raw(served, request + b"Connection: close, Upgrade\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    served.wait_log("request", request_id="up-1")
    assert "pip install" not in "".join(served.raw) and "Unsupported upgrade" not in "".join(served.raw)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ({}, {}),
        ({"parameters": {}}, {}),
        ({"parameters": {"type": "object", "properties": {}}}, {}),
        ({"parameters": {"type": "object", "properties": {}, "additionalProperties": False}, "strict": True}, {}),
    ],
)
@pytest.mark.parametrize("speculation", ["off", 4])
def test_tools_without_parameters_take_none(
    client: httpx.Client, function: dict[str, Any], arguments: dict[str, Any], speculation: object
) -> None:
    tool = {"type": "function", "function": {"name": "now", **function}}
    body = chat_body(tools=[tool], tool_choice="required", temperature=1.0, seed=5, speculation=speculation)
    [call, *_] = client.post(CHAT, json=body).json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == arguments


def test_what_changes_the_answer_is_refused(client: httpx.Client) -> None:
    begun = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": '{"x'}]
    form = {"type": "json_object"}
    for body, field, says in (
        (
            {"messages": begun, "continue_final_message": True, "response_format": form},
            "response_format",
            "begun answer",
        ),
        ({"messages": [begun[0], {**begun[1], "prefix": True}]}, "messages[1].prefix", "continue_final_message: true"),
        ({"stop": ["x"] * 17}, "stop", "stop: must have at most 16 items, not 17"),
    ):
        error = client.post(CHAT, json=chat_body(**body)).json()["error"]
        assert error["param"] == field and says in error["message"], error
    messages = {"model": MODEL, "max_tokens": 5, "messages": begun, "output_config": {"format": {**form}}}
    assert client.post("/v1/messages", json=messages).status_code == 400
    theirs = client.get("/v1/models/gpt-4", headers={"anthropic-version": "2023-06-01"})
    assert theirs.status_code == 404 and theirs.json()["type"] == "error"


def test_a_packed_body_is_refused_by_name(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client.post(CHAT, content=b"\x1f\x8b\x08", headers=headers)
    assert answer.status_code == 415 and "'gzip' is not supported" in answer.json()["error"]["message"]


def test_aliases_are_listed(packed_cache: Path) -> None:
    with Served("--alias", "gpt-4") as server:
        server.ready()
        for headers in ({}, {"anthropic-version": "2023-06-01"}):
            found = httpx.get(f"{server.url}/v1/models", headers=headers).json()["data"]
            assert [card["id"] for card in found] == [MODEL, "gpt-4"]
