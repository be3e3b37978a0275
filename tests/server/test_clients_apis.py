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


def same_over(litellm: Any, keyed: Served, provider: str) -> dict[str, Any]:
    """Whole and streamed, a provider of litellm's gives the chat route's answer; the arguments that were used."""
    options: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
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
    return options


def test_litellm_over_anthropics_api(keyed: Served, litellm: Any) -> None:
    options = same_over(litellm, keyed, "anthropic")
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
    same_over(litellm, keyed, "ollama_chat")


def test_langchain_over_anthropics_api(keyed: Served) -> None:
    chats = pytest.importorskip("langchain_anthropic")
    from langchain_core.messages import HumanMessage, ToolMessage

    options: dict[str, Any] = {"model": MODEL, "base_url": keyed.url, "api_key": KEY, "max_retries": 0}
    chat = chats.ChatAnthropic(**options, max_tokens=30, temperature=0)
    text = chat.invoke("Tell me a story.").content
    assert text == expected(keyed, temperature=0)
    assert "".join(str(part.text) for part in chat.stream("Tell me a story.")) == text
    question = HumanMessage("Weather in Rome?")
    called = chats.ChatAnthropic(**options, max_tokens=100).bind_tools([TOOL], tool_choice="any").invoke([question])
    [call, *_] = called.tool_calls
    assert call["args"]["city"] in ("Paris", "Rome")
    results = [ToolMessage("sunny", tool_call_id=call["id"]) for call in called.tool_calls]
    assert chat.bind_tools([TOOL]).invoke([question, called, *results]).usage_metadata["output_tokens"] > 0


def test_langchain_over_ollamas_api(keyed: Served) -> None:
    chats = pytest.importorskip("langchain_ollama")
    headers = {"headers": {"Authorization": f"Bearer {KEY}"}}
    options: dict[str, Any] = {"model": MODEL, "base_url": keyed.url, "client_kwargs": headers, "temperature": 0}
    chat = chats.ChatOllama(**options, num_predict=30, validate_model_on_init=True)
    text = chat.invoke("Tell me a story.").content
    assert text == expected(keyed, temperature=0)
    assert "".join(part.content for part in chat.stream("Tell me a story.")) == text


def test_pydantic_ai(keyed: Served) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    anthropic = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=keyed.url, api_key=KEY))
    openai = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{keyed.url}/v1", api_key=KEY))
    for model in (anthropic, openai):
        agent = ai.Agent(model, model_settings={"max_tokens": 30, "temperature": 0})
        assert agent.run_sync("Tell me a story.").output == expected(keyed, temperature=0)
