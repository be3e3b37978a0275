"""How far a prompt is, in streams that ask for it and in traces; clients that do not ask get what they always got."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.serving import MODEL, Served, chat_body, stream

LONG = "The little robot walked to the river and looked at the water. " * 140  # eight passes


def rounds_counted(served: Served) -> float:
    return sum(value for name, value in served.metrics().items() if name.startswith("geminate:spec_decode_rounds"))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_progress_is_reported_where_it_is_asked_for(client: httpx.Client, path: str) -> None:
    def body(mark: str) -> dict[str, Any]:
        return (
            chat_body(f"{mark} {LONG}", max_tokens=4)
            if "chat" in path
            else {"model": MODEL, "prompt": f"{mark} {LONG}"}
        )

    made = stream(
        client,
        path,
        body(f"asked {path}") | {"return_progress": True, "stream_options": {"include_usage": True}},
    )
    told = [chunk["prompt_progress"] for chunk in made if "prompt_progress" in chunk]
    # One at least: passes that end before the last event was sent are told as one.
    assert told and all("geminate" not in chunk for chunk in made)
    total = made[-1]["usage"]["prompt_tokens"]
    assert all(at["total"] == total and at["cache"] <= at["processed"] < total for at in told)
    assert [at["processed"] for at in told] == sorted({at["processed"] for at in told})
    assert all(at["time_ms"] > 0 for at in told)
    first = next(i for i, chunk in enumerate(made) if "prompt_progress" not in chunk)
    assert not any("prompt_progress" in chunk for chunk in made[first:]), "before the first token alone"
    plain = stream(client, path, body(f"plain {path}"))
    assert not any("prompt_progress" in chunk or "geminate" in chunk for chunk in plain)
    for chunk in made[:first]:
        [choice] = chunk["choices"]
        assert choice["finish_reason"] is None and not choice.get("delta") and not choice.get("text")


def test_traces_have_it(client: httpx.Client, served: Served) -> None:
    before = rounds_counted(served)
    made = stream(client, "/v1/chat/completions", chat_body(f"traced {LONG}", max_tokens=4, trace=True))
    read = [chunk["geminate"]["prompt"] for chunk in made if "prompt" in chunk.get("geminate", {})]
    assert read and all(0 < at["read"] < at["of"] for at in read)
    rounds = [chunk["geminate"] for chunk in made if "tokens" in chunk.get("geminate", {})]
    assert sum(len(part["tokens"]) for part in rounds) == 4
    assert rounds_counted(served) - before == len(rounds), "a part of a prompt is no round"


def test_whole_answers_and_other_apis_have_none(client: httpx.Client) -> None:
    body = chat_body(f"whole {LONG}", max_tokens=4) | {"trace": True, "return_progress": True}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert "prompt_progress" not in whole and all("tokens" in part for part in whole["geminate"]["rounds"])
    message = {"model": body["model"], "max_tokens": 4, "messages": body["messages"], "trace": True, "stream": True}
    with client.stream("POST", "/v1/messages", json=message) as answer:
        text = answer.read().decode()
    assert "message_stop" in text and "prompt_progress" not in text
