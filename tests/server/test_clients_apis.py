"""Clients that reach the server over Anthropic's and Ollama's API, and recorded requests of others."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from support.serving import MODEL, Served

KEY = "sk-test-0123456789abcdef"
HELLO: list[Any] = [{"role": "user", "content": "Tell me a story."}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """A server with a key: clients must send it."""
    with Served(env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    return litellm


def expected(served: Served, **fields: Any) -> str:
    """The chat route's answer."""
    with served.client() as client:
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 30, **fields}
        return str(client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])


def test_litellm_over_anthropics_api(keyed: Served, litellm: Any) -> None:
    options: dict[str, Any] = {
        "model": f"anthropic/{MODEL}",
        "api_base": keyed.url,
        "api_key": KEY,
        "messages": HELLO,
        "temperature": 0,
        "max_tokens": 30,
    }
    text = litellm.completion(**options).choices[0].message.content
    assert text == expected(keyed, temperature=0)
    chunks = litellm.completion(**options, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    called = litellm.completion(**{**options, "max_tokens": 100}, tools=[TOOL], tool_choice="required")
    [call] = called.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*HELLO, called.choices[0].message.model_dump(exclude_none=True), result]
    answer = litellm.completion(**{**options, "messages": history}, tools=[TOOL])
    assert answer.usage.completion_tokens > 0


def test_litellms_anthropic_bridge(keyed: Served, litellm: Any) -> None:
    """``litellm.anthropic.messages`` sends Anthropic's requests as they are, or to ``/v1/responses``.

    Its streams need the packages of litellm's proxy, which are not installed here.
    """
    options: dict[str, Any] = {"messages": HELLO, "max_tokens": 30, "temperature": 0, "api_key": KEY}
    text = expected(keyed, temperature=0)

    async def ask(**fields: Any) -> Any:
        return await litellm.anthropic.messages.acreate(**options, **fields)

    for model, base in ((f"anthropic/{MODEL}", keyed.url), (f"openai/{MODEL}", f"{keyed.url}/v1")):
        message = asyncio.run(ask(model=model, api_base=base))
        assert [block["text"] for block in message["content"] if block["type"] == "text"] == [text]


def test_litellm_over_ollamas_api(keyed: Served, litellm: Any) -> None:
    options: dict[str, Any] = {
        "model": f"ollama_chat/{MODEL}",
        "api_base": keyed.url,
        "api_key": KEY,
        "messages": HELLO,
        "temperature": 0,
        "max_tokens": 30,
    }
    text = litellm.completion(**options).choices[0].message.content
    assert text == expected(keyed, temperature=0)
    chunks = litellm.completion(**options, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
