"""Requests as clients send them that are not installed here: each file says whether it was recorded or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

FILES = sorted((Path(__file__).parent / "recorded_apis").glob("*.json"))
CASES = [(file.stem, request) for file in FILES for request in json.loads(file.read_text())["requests"]]


@pytest.mark.parametrize(("client_name", "sent"), CASES, ids=[f"{name}: {sent['what']}" for name, sent in CASES])
def test_it_is_answered(client: httpx.Client, client_name: str, sent: dict[str, Any]) -> None:
    body = sent.get("body")
    answer = client.request(sent.get("method", "POST"), sent["path"], json=body, headers=sent.get("headers"))
    assert answer.status_code == 200, (client_name, answer.text)
    kind = answer.headers["content-type"]
    if body is None or not body.get("stream", sent["path"] == "/api/chat"):
        assert answer.json() and kind == "application/json"
    elif kind == "application/x-ndjson":
        assert json.loads(answer.text.splitlines()[-1])["done"] is True
    else:
        data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        last = "[DONE]" if data[-1] == "[DONE]" else json.loads(data[-1])["type"]
        assert last in ("[DONE]", "message_stop", "response.completed", "response.incomplete"), data[-1]


def test_each_file_says_how_it_came_to_be() -> None:
    for file in FILES:
        known = json.loads(file.read_text())
        assert known["client"] and known["how"] in ("recorded", "written by hand, not recorded")
