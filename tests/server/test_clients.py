"""The clients people have, unchanged, against a real server with the embedded pair."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from support.serving import MODEL, Served

HELLO: list[Any] = [{"role": "user", "content": "Tell me a story."}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int = Field(description="In years", le=30, ge=0)


@pytest.fixture(scope="module")
def keyed() -> Any:
    """A server with a key: clients must send it."""
    with Served(env={"GEMINATE_API_KEYS": "sk-test-0123456789"}, key="sk-test-0123456789") as server:
        yield server.ready()


@pytest.fixture
def client(keyed: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="sk-test-0123456789", max_retries=0)


def test_models_and_keys(client: openai.OpenAI, keyed: Served) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, top_p=7)
    assert caught.value.param == "top_p"


def test_chat(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_completion_tokens": 30, "seed": 1}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=2, extra_body={"speculation": "off"})
    text = whole.choices[0].message.content
    assert text and whole.usage and whole.usage.completion_tokens <= 30
    assert whole.choices[0].logprobs and whole.choices[0].logprobs.content
    assert whole.model_extra and whole.model_extra["timings"]["draft_n"] == 0
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    short: dict[str, Any] = {**options, "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 200}
    with client.chat.completions.stream(**short) as stream:  # the helper refuses an answer that was cut off
        final = stream.get_final_completion()
    assert final.choices[0].message.content == client.chat.completions.create(**short).choices[0].message.content


def test_async(keyed: Served) -> None:
    async def run() -> tuple[str | None, str, list[str | None]]:
        async with openai.AsyncOpenAI(
            base_url=f"{keyed.url}/v1", api_key="sk-test-0123456789", max_retries=0
        ) as client:
            options: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 30, "seed": 1}
            whole = await client.chat.completions.create(**options)
            stream = await client.chat.completions.create(**options, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in stream])
            many = await asyncio.gather(*(client.chat.completions.create(**options) for _ in range(8)))
            return whole.choices[0].message.content, text, [m.choices[0].message.content for m in many]

    whole, streamed, many = asyncio.run(run())
    assert whole and {whole, streamed, *many} == {whole}


def test_tools_and_their_answers(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Weather in Paris?"}]
    options: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "seed": 1, "max_tokens": 100}
    first = client.chat.completions.create(
        messages=messages, tool_choice="required", parallel_tool_calls=False, **options
    )
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.tool_calls
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = client.chat.completions.create(messages=messages, tool_choice="none", **options)
    assert second.choices[0].finish_reason in ("stop", "length") and not second.choices[0].message.tool_calls
    with client.chat.completions.stream(
        messages=messages[:1], tool_choice="required", parallel_tool_calls=False, **options
    ) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls and calls[0].function.arguments == call.function.arguments


def test_structured_outputs(client: openai.OpenAI) -> None:
    for temperature in (0, 1.5):
        options: dict[str, Any] = {"model": MODEL, "seed": 2, "temperature": temperature}
        parsed = client.chat.completions.parse(messages=HELLO, response_format=Pet, max_tokens=60, **options)
        assert isinstance(parsed.choices[0].message.parsed, Pet)
        response = client.responses.parse(
            model=MODEL, input="A pet", text_format=Pet, max_output_tokens=60, temperature=temperature
        )
        assert isinstance(response.output_parsed, Pet)
    loose = client.chat.completions.create(
        model=MODEL, messages=HELLO, response_format={"type": "json_object"}, max_tokens=200, seed=5, temperature=0
    )
    if loose.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(loose.choices[0].message.content or ""), dict)


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt=["Once upon", "The sun"], max_tokens=10, seed=1, logprobs=1)
    chunks = list(
        client.completions.create(model=MODEL, prompt=["Once upon", "The sun"], max_tokens=10, seed=1, stream=True)
    )
    for choice in whole.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(p.text for p in parts) == choice.text
        assert choice.logprobs and choice.logprobs.tokens


def test_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input="Tell me a story.", max_output_tokens=30, extra_body={"seed": 1})
    assert whole.output_text and whole.usage and whole.usage.output_tokens <= 30
    stream = client.responses.create(
        model=MODEL, input="Tell me a story.", max_output_tokens=30, stream=True, extra_body={"seed": 1}
    )
    events = list(stream)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    short: dict[str, Any] = {"model": MODEL, "input": "Hi", "max_output_tokens": 200, "extra_body": {"seed": 1}}
    with client.responses.stream(**short) as managed:  # as above
        assert managed.get_final_response().output_text == client.responses.create(**short).output_text
    tool: Any = {"type": "function", **TOOLS[0]["function"]}
    called = client.responses.create(
        model=MODEL,
        input="Weather?",
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=100,
    )
    [item] = called.output
    assert item.type == "function_call"
    answer = client.responses.create(
        model=MODEL,
        input=[
            {"role": "user", "content": "Weather?"},
            item.model_dump(exclude_none=True),  # type: ignore[list-item]
            {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"},
        ],
        tools=[tool],
        max_output_tokens=10,
    )
    assert answer.output


def test_litellm(keyed: Served) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    options: dict[str, Any] = {
        "model": f"openai/{MODEL}",
        "api_base": f"{keyed.url}/v1",
        "api_key": "sk-test-0123456789",
        "messages": HELLO,
        "seed": 1,
        "max_tokens": 30,
    }
    text = litellm.completion(**options).choices[0].message.content
    assert text
    chunks = litellm.completion(**options, stream=True, stream_options={"include_usage": True})
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    called = litellm.completion(**{**options, "max_tokens": 100}, tools=TOOLS, tool_choice="required")
    assert called.choices[0].message.tool_calls[0].function.name == "get_weather"
    made = asyncio.run(litellm.acompletion(**{**options, "max_tokens": 60}, response_format=Pet))
    assert Pet.model_validate_json(made.choices[0].message.content)


def test_langchain(keyed: Served) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(
        model=MODEL,
        base_url=f"{keyed.url}/v1",
        api_key="sk-test-0123456789",
        seed=1,
        max_tokens=100,
        max_retries=0,  # type: ignore
        temperature=0.5,
    )
    text = chat.invoke("Tell me a story.").content
    assert text and "".join(str(c.content) for c in chat.stream("Tell me a story.")) == text
    assert isinstance(chat.with_structured_output(Pet, method="json_schema").invoke("A pet"), Pet)
    assert isinstance(chat.with_structured_output(Pet, method="function_calling").invoke("A pet"), Pet)
    bound = chat.bind_tools(TOOLS, tool_choice="required", parallel_tool_calls=False)
    question = HumanMessage("Weather in Rome?")
    called = bound.invoke([question])
    [call] = called.tool_calls
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Rome")
    answer = chat.invoke([question, called, ToolMessage("sunny", tool_call_id=call["id"])])
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] > 0
    through_responses = ChatOpenAI(
        model=MODEL,
        base_url=f"{keyed.url}/v1",
        api_key="sk-test-0123456789",
        max_tokens=100,
        max_retries=0,  # type: ignore
        use_responses_api=True,
    )
    first = through_responses.invoke("Hi")
    assert first.text and through_responses.invoke([HumanMessage("Hi"), first, HumanMessage("And?")]).text
    assert "".join(c.text for c in through_responses.stream("Hi"))
    plain = OpenAI(model=MODEL, base_url=f"{keyed.url}/v1", api_key="sk-test-0123456789", max_tokens=10, max_retries=0)  # type: ignore
    assert plain.invoke("Once upon a time")
