"""Request bodies of clients that are not installed: recorded from the AI SDK, or written as the client does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

RECORDED = Path(__file__).with_name("recorded")
BODIES = [
    pytest.param(file.stem, number, id=f"{file.stem}-{number}")
    for file in sorted(RECORDED.glob("*.json"))
    for number in range(len(json.loads(file.read_text())))
]


def _sent(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    limit = "max_output_tokens" if path == "/v1/responses" else "max_completion_tokens"
    body = {name: value for name, value in body.items() if name not in ("max_tokens", limit)}
    return client.post(path, json={**body, limit: 30})


@pytest.mark.parametrize(("name", "number"), BODIES)
def test_it_is_answered(client: httpx.Client, name: str, number: int) -> None:
    entries = json.loads((RECORDED / f"{name}.json").read_text())
    path, body = entries[number]["path"], entries[number]["body"]
    if "$previous" in json.dumps(body):
        before = _sent(client, path, entries[number - 1]["body"]).json()
        body = json.loads(json.dumps(body).replace("$previous", before["output"][0]["id"]))
    answer = _sent(client, path, body)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        last = answer.text.strip().split("\n\n")[-1]
        assert last == "data: [DONE]" or last.startswith(("event: response.completed", "event: response.incomplete"))
    if name == "codex_like":
        assert "prompt_cache_key" in answer.headers["x-geminate-ignored"]
