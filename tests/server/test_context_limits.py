"""What a request may take of the context: the figure that is announced is the one that holds, on every route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from geminate import LLM
from geminate.server import start
from geminate.server.settings import Settings
from support.serving import MODEL, Served, chat_body

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TEXT = "Once upon a time"


@pytest.fixture(scope="module")
def served(packed_cache: Path) -> Iterator[Served]:
    """A server whose KV memory holds less than the model's context."""
    with LLM(threads=1) as llm:
        need = start.kv_budget(llm, Settings()).need(300)
    with Served("--kv-bytes", str(need), "--max-running", "1") as server:
        yield server.ready()


def refused(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded", answer.text
    return error["message"]


@pytest.mark.parametrize(
    "path, body, field",
    [
        (CHAT, chat_body(TEXT), "max_tokens"),
        (CHAT, chat_body(TEXT), "max_completion_tokens"),
        (COMPLETIONS, {"model": MODEL, "prompt": TEXT}, "max_tokens"),
        (RESPONSES, {"model": MODEL, "input": TEXT}, "max_output_tokens"),
    ],
)
def test_the_announced_length_is_the_one_that_holds(
    client: httpx.Client, path: str, body: dict[str, Any], field: str
) -> None:
    announced = client.get("/v1/models").json()["data"][0]["max_model_len"]
    assert 300 <= announced < 2048
    usage = client.post(path, json={**body, field: 1}).json()["usage"]
    room = announced - (usage.get("prompt_tokens") or usage["input_tokens"])
    whole = client.post(path, json={**body, field: room, "ignore_eos": True, "seed": 1})
    assert whole.status_code == 200 and whole.json()["usage"]["total_tokens"] == announced
    said = refused(client.post(path, json={**body, field: room + 1}))
    assert f"maximum context length is {announced} tokens (of 2,048; kv_bytes holds no more)" in said
    assert f"the completion may take {room + 1}; ask for at most {room}, or leave the limit out" in said
    free = client.post(path, json={**body, "ignore_eos": True, "seed": 1})
    assert free.status_code == 200, "a limit of the server is none of the request"


def test_where_the_limit_is_a_ceiling(client: httpx.Client) -> None:
    message = {"model": MODEL, "max_tokens": 100_000, "messages": [{"role": "user", "content": TEXT}]}
    answer = client.post("/v1/messages", json={**message, "ignore_eos": True})
    assert answer.status_code == 200 and answer.json()["stop_reason"] == "model_context_window_exceeded"
    for path, more in (
        ("/api/chat", {"messages": message["messages"]}),
        ("/api/generate", {"prompt": TEXT}),
        ("/api/generate", {"prompt": TEXT, "raw": True}),
    ):
        body = {"model": MODEL, "stream": False, "options": {"num_predict": 100_000}, **more}
        answer = client.post(path, json=body)
        assert answer.status_code == 200 and answer.json()["done"], answer.text


def test_a_prompt_that_is_too_long(client: httpx.Client) -> None:
    said = refused(client.post(COMPLETIONS, json={"model": MODEL, "prompt": "word " * 400}))
    assert "shorten the prompt to leave room for the completion" in said


@pytest.mark.parametrize(
    "path, body, says",
    [
        (CHAT, chat_body(stop="x" * 1025), "stop: must have at most 1,024 characters, not 1,025"),
        (CHAT, chat_body(stop=["x"] * 17), "stop: must have at most 16 items, not 17"),
        (CHAT, chat_body(user="x" * 300), "user: must have at most 256 characters, not 300"),
        (CHAT, chat_body(tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]),
         "tools: must have at most 128 items, not 129"),
        (COMPLETIONS, {"model": MODEL, "prompt": "x", "tools": [{"type": "function"}]}, "use /v1/chat/completions"),
    ],
)  # fmt: skip
def test_lengths_are_said_in_figures(client: httpx.Client, path: str, body: dict[str, Any], says: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400 and says in answer.json()["error"]["message"], answer.text


def test_what_other_clients_leave_in(client: httpx.Client) -> None:
    empty = client.post(COMPLETIONS, json={"model": MODEL, "prompt": TEXT, "max_tokens": 2, "tools": [],
                                           "tool_choice": "none"})  # fmt: skip
    assert empty.status_code == 200, empty.text
    for effort in ("xhigh", "max"):
        assert client.post(CHAT, json=chat_body(max_tokens=2, reasoning_effort=effort)).status_code == 200
        answer = client.post(RESPONSES, json={"model": MODEL, "input": TEXT, "max_output_tokens": 2,
                                              "reasoning": {"effort": effort}})  # fmt: skip
        assert answer.status_code == 200, answer.text


def test_a_reference_without_a_type(client: httpx.Client) -> None:
    first = client.post(RESPONSES, json={"model": MODEL, "input": "Hello", "max_output_tokens": 8}).json()
    item, again = first["output"][0], {"role": "user", "content": "And then?"}
    for reference in (
        {"id": item["id"]},
        {"id": item["id"], "type": None},
        {"type": "item_reference", "id": item["id"]},
    ):
        answer = client.post(RESPONSES, json={"model": MODEL, "input": [reference, again], "max_output_tokens": 2})
        assert answer.status_code == 200, answer.text
    missing = client.post(RESPONSES, json={"model": MODEL, "input": [{"id": "msg_gone"}, again]})
    assert missing.status_code == 400 and "'msg_gone' is not kept here" in missing.json()["error"]["message"]


def test_counting_tokens_of_a_response(client: httpx.Client) -> None:
    answer = client.post("/v1/responses/input_tokens", json={"model": MODEL, "input": "Hello"})
    assert answer.status_code == 404 and "/tokenize with messages" in answer.json()["error"]["message"]
