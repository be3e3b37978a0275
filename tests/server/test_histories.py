"""Random conversations with random foreign fields: 200 with a header that names them, or 400 that names one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.serving import MODEL, Served

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SETTINGS = settings(
    max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
FOREIGN = st.sampled_from([
    "name", "id", "cache_control", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "refusal",
    "provider_specific_fields", "annotations", "audio", "images", "function_call", "tool_calls", "metadata", "phase",
    "status", "is_error", "artifact", "extra_content", "index", "type", "timestamp", "encrypted_content", "summary",
])  # fmt: skip
EXTRA = st.dictionaries(FOREIGN | WORDS, ODD, max_size=2)
ARGUMENTS = (
    st.sampled_from(['{"a": 1}', '{"a": "x', '{"a": [1, {"b": ', "", "f(x)", "[1]", "null"])
    | st.dictionaries(WORDS, ODD, max_size=2)
    | st.none()
    | WORDS
)


@st.composite
def part(draw: st.DrawFn, kinds: tuple[str, ...]) -> dict[str, Any]:
    kind = draw(st.sampled_from(kinds))
    return {**draw(EXTRA), "type": kind, "refusal" if kind == "refusal" else "text": draw(WORDS)}


@st.composite
def chat_history(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns as a client would send them, each with foreign fields, nulls and parts."""
    texts = WORDS | st.lists(part(("text", "text", "refusal", "output_text", "thinking")), max_size=2)
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        made.append({**draw(EXTRA), "role": "user", "content": draw(texts)})
        answer = {**draw(EXTRA), "role": "assistant", "content": draw(texts | st.none())}
        if draw(st.booleans()):
            function = {**draw(EXTRA), "name": "f", "arguments": draw(ARGUMENTS)}
            call = {**draw(EXTRA), "id": f"c{number}", "function": function}
            result = {**draw(EXTRA), "role": "tool", "tool_call_id": f"c{number}", "content": draw(texts | st.none())}
            made += [{**answer, "tool_calls": [call]}, result]
        else:
            made.append(answer)
    made.append({"role": "user", "content": "Go on."})
    return made


@st.composite
def response_history(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The same as items."""
    texts = WORDS | st.lists(part(("text", "input_text", "output_text", "refusal")), max_size=2)
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        made.append({**draw(EXTRA), "role": "user", "content": draw(texts)})
        if draw(st.booleans()):
            summary = [{"type": "summary_text", "text": draw(WORDS)}] if draw(st.booleans()) else []
            item = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": draw(WORDS | st.none())}
            made.append({**draw(EXTRA), **item})
        if draw(st.booleans()):
            call = {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": draw(ARGUMENTS)}
            made.append({**draw(EXTRA), **call})
            made.append({**draw(EXTRA), "type": "function_call_output", "call_id": f"c{number}", "output": draw(texts)})
        made.append({**draw(EXTRA), "type": "message", "role": "assistant", "content": draw(texts)})
    made.append({"role": "user", "content": "Go on."})
    return made


@pytest.fixture(scope="module")
def roomy(packed_cache: Path) -> Iterator[httpx.Client]:
    """A client of a server of its own: many refusals slow a client down."""
    with Served() as server, server.ready().client() as client:
        yield client


def _check(client: httpx.Client, path: str, body: dict[str, Any], field: str) -> None:
    answer = client.post(path, json=body)
    ignored = answer.headers.get("x-geminate-ignored", "")
    assert ignored.isprintable() and len(ignored) <= 1000
    if answer.status_code == 200:
        foreign = {key for entry in body[field] for key, value in entry.items() if value is not None}
        if foreign & {"provider_specific_fields", "extra_content"}:
            assert f"{field}[]." in ignored, (foreign, ignored)
        return
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] and error["param"].startswith(field), error
    for inner in ("TextPart", "Message.", "function-", "_item_type", "discriminator", ".str", "Items"):
        assert inner not in error["message"], error


@SETTINGS
@given(messages=chat_history())
def test_chat(roomy: httpx.Client, messages: list[dict[str, Any]]) -> None:
    _check(roomy, CHAT, {"model": MODEL, "max_tokens": 1, "messages": messages}, "messages")


@SETTINGS
@given(items=response_history())
def test_responses(roomy: httpx.Client, items: list[dict[str, Any]]) -> None:
    _check(roomy, RESPONSES, {"model": MODEL, "max_output_tokens": 1, "input": items}, "input")
