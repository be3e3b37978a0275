"""Anthropic's client, unchanged, against a real server: messages, streams, tools, thinking, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from support.serving import MODEL, Served, chat_body

KEY = "sk-ant-test-0123456789"
HELLO: list[Any] = [{"role": "user", "content": "Tell me a story."}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
FORCED = {"type": "grammar", "grammar": 'start: <[100]> "thought\\nhm" <[101]> "yes"'}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """A server with a key, which the client sends as x-api-key."""
    with Served(env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def claude(keyed: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=keyed.url, api_key=KEY, max_retries=0)


def ask(claude: anthropic.Anthropic, extra: dict[str, Any] | None = None, **fields: Any) -> Any:
    options: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 30, **fields}
    return claude.messages.create(**options, extra_body={"seed": 1, **(extra or {})})


def collected(claude: anthropic.Anthropic, extra: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
    return list(ask(claude, extra, stream=True, **fields))


def openai(served: Served, **fields: Any) -> Any:
    with served.client() as client:
        response = client.post("/v1/chat/completions", json=chat_body(**{"seed": 1, "max_tokens": 30, **fields}))
    assert response.status_code == 200, response.text
    return response.json()


def test_the_same_answer_as_the_chat_route(keyed: Served, claude: anthropic.Anthropic) -> None:
    message, other = ask(claude), openai(keyed)
    assert message.content[0].text == other["choices"][0]["message"]["content"]
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == other["usage"]["prompt_tokens"]
    assert usage.output_tokens == other["usage"]["completion_tokens"]
    assert message.role == "assistant" and message.model == MODEL and message.id.startswith("msg_")
    assert message.stop_reason == ("max_tokens" if other["choices"][0]["finish_reason"] == "length" else "end_turn")
    system = ask(claude, system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}])
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert system.content[0].text == openai(keyed, messages=messages)["choices"][0]["message"]["content"]


def test_events_come_in_order(claude: anthropic.Anthropic) -> None:
    whole = ask(claude, extra={"speculation": "off"})
    events = collected(claude)
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds[1] == "content_block_start" and kinds[-3] == "content_block_stop"  # the client drops pings
    assert set(kinds[2:-3]) == {"content_block_delta"}
    start = events[0].message
    assert start.content == [] and start.stop_reason is None and start.usage.output_tokens == 0
    assert "".join(e.delta.text for e in events if e.type == "content_block_delta") == whole.content[0].text
    assert events[-2].delta.stop_reason == whole.stop_reason
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    with claude.messages.stream(model=MODEL, messages=HELLO, max_tokens=30, extra_body={"seed": 1}) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


def test_the_stream_on_the_wire(keyed: Served) -> None:
    """Every event is named as its type; a ping follows the start."""
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5, "seed": 1, "stream": True}
    with keyed.client() as client, client.stream("POST", "/v1/messages", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["request-id"] == response.headers["x-request-id"]
        blocks = [block.split("\n") for block in response.read().decode().strip().split("\n\n")]
    named = [(event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data in blocks]
    assert all(name == data["type"] for name, data in named)
    assert named[1] == ("ping", {"type": "ping"})


def test_async_and_many_at_once(keyed: Served) -> None:
    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=keyed.url, api_key=KEY, max_retries=0) as client:
            one: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 20, "extra_body": {"seed": 1}}
            many = await asyncio.gather(*(client.messages.create(**one) for _ in range(6)))
            async with client.messages.stream(**one) as stream:
                streamed = "".join([text async for text in stream.text_stream])
        return [streamed, *(message.content[0].text for message in many)]  # type: ignore[union-attr]

    assert len(set(asyncio.run(run()))) == 1


def test_stop_sequences_are_named(claude: anthropic.Anthropic) -> None:
    text = ask(claude, max_tokens=60).content[0].text
    stop = text[10:14]
    message = ask(claude, max_tokens=60, stop_sequences=["@@", stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == text[: text.index(stop)]
    last = collected(claude, max_tokens=60, stop_sequences=["@@", stop])[-2]
    assert (last.delta.stop_reason, last.delta.stop_sequence) == ("stop_sequence", stop)
    for fields in ({"max_tokens": 5}, {"max_tokens": 60, "stop_sequences": []}):
        assert ask(claude, **fields).stop_sequence is None


@pytest.mark.parametrize("speculation", ["off", "auto"])
def test_tools_there_and_back(keyed: Served, claude: anthropic.Anthropic, speculation: str) -> None:
    question = [{"role": "user", "content": "Weather in Paris?"}]
    fields: dict[str, Any] = {"messages": question, "tools": [WEATHER], "max_tokens": 80}
    extra = {"temperature": 1.5, "speculation": speculation}
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}):
        message = ask(claude, extra, tool_choice=choice, **fields)
        [call] = message.content
        assert message.stop_reason == "tool_use" and call.type == "tool_use" and call.name == "get_weather"
        assert call.input["city"] in ("Paris", "Rome") and isinstance(call.input["days"], int)
        events = collected(claude, extra, tool_choice=choice, **fields)
        parts = [e.delta.partial_json for e in events if e.type == "content_block_delta"]
        assert json.loads("".join(parts)) == call.input and events[-2].delta.stop_reason == "tool_use"
        [started] = [e.content_block for e in events if e.type == "content_block_start"]
        assert started.name == "get_weather" and started.input == {}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    history = [*question, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = ask(claude, messages=history, tools=[WEATHER], tool_choice={"type": "none"})
    arguments = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": json.dumps(call.input)},
    }
    same = openai(
        keyed,
        messages=[
            *question,
            {"role": "assistant", "content": None, "tool_calls": [arguments]},
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ],
    )
    assert "".join(b.text for b in answer.content) == same["choices"][0]["message"]["content"]


def test_results_and_text_of_one_turn_keep_their_order(keyed: Served, claude: anthropic.Anthropic) -> None:
    calls = [{"type": "tool_use", "id": f"t{n}", "name": "get_weather", "input": {"city": "Rome"}} for n in (1, 2)]
    turn = [
        {"type": "tool_result", "tool_use_id": "t1", "content": "sunny", "is_error": False},
        {"type": "tool_result", "tool_use_id": "t2"},
        {"type": "text", "text": "And "},
        {"type": "text", "text": "now?", "cache_control": {"type": "ephemeral"}},
    ]
    thoughts = [
        {"type": "thinking", "thinking": "I must look.", "signature": "x"},
        {"type": "redacted_thinking", "data": "abc"},
    ]
    history: list[Any] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "Wait."}, *calls]},
        {"role": "user", "content": turn},
    ]
    made = claude.messages.with_raw_response.create(model=MODEL, messages=history, max_tokens=5, tools=[WEATHER])  # type: ignore[list-item]
    assert made.headers["x-geminate-ignored"] == "messages[].content[].cache_control"
    counted = claude.messages.count_tokens(model=MODEL, messages=history, tools=[WEATHER]).input_tokens  # type: ignore[list-item]
    usage = made.parse().usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted
    functions = [
        {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["input"])}}
        for c in calls
    ]
    tool = {
        "type": "function",
        "function": {
            "name": WEATHER["name"],
            "description": WEATHER["description"],
            "parameters": WEATHER["input_schema"],
        },
    }
    body = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Wait.",
                "reasoning_content": "I must look.",
                "tool_calls": functions,
            },
            {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "t2", "content": ""},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [tool],
    }
    with keyed.client() as client:
        assert client.post("/tokenize", json=body).json()["count"] == counted


def test_thinking(claude: anthropic.Anthropic) -> None:
    """A grammar makes the model think, since the embedded one was not taught to."""
    message = ask(claude, {"response_format": FORCED})
    thought, text = message.content
    assert (thought.type, thought.thinking, text.text) == ("thinking", "hm", "yes") and thought.signature
    events = collected(claude, {"response_format": FORCED})
    deltas = [e.delta for e in events if e.type == "content_block_delta"]
    assert "".join(d.thinking for d in deltas if d.type == "thinking_delta") == "hm"
    assert "".join(d.text for d in deltas if d.type == "text_delta") == "yes"
    kinds = [d.type for d in deltas]
    assert kinds.index("signature_delta") == kinds.index("text_delta") - 1
    again = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": "And?"}]
    assert ask(claude, messages=again).content
    hidden = ask(claude, {"response_format": FORCED}, thinking={"type": "adaptive", "display": "omitted"})
    assert hidden.content[0].thinking == "" and hidden.content[0].signature
    plain = claude.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    on = claude.messages.count_tokens(model=MODEL, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 1024})
    off = claude.messages.count_tokens(model=MODEL, messages=HELLO, thinking={"type": "disabled"})
    assert off.input_tokens == plain < on.input_tokens


def test_what_has_no_effect_is_named(keyed: Served, claude: anthropic.Anthropic) -> None:
    made = claude.messages.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=3,
        system=[{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u" * 400},
        service_tier="auto",
    )
    assert made.headers["x-geminate-ignored"].split(", ") == [
        "service_tier",
        "system[].cache_control",
        "thinking.budget_tokens",
    ]
    line = keyed.wait_log("request", request_id=made.headers["request-id"])
    assert line["ignored"] and line["user"] == "u" * 256
    assert "x-geminate-ignored" not in claude.messages.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=3, metadata={"user_id": "me"}
    ).headers  # fmt: skip


def test_a_call_that_is_cut_off_is_no_call(claude: anthropic.Anthropic) -> None:
    """At every length: a whole message has a call only if it is complete, a stream never closes one."""
    whole = ask(claude, tools=[WEATHER], tool_choice={"type": "tool", "name": "get_weather"}, max_tokens=80)
    assert whole.stop_reason == "tool_use"
    for limit in range(1, whole.usage.output_tokens):
        fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}}
        message = ask(claude, max_tokens=limit, **fields)
        assert message.stop_reason == "max_tokens", limit
        for block in message.content:
            assert block.type == "tool_use" and block.input == whole.content[0].input, (limit, message)


def test_a_message_that_is_begun_goes_on(keyed: Served, claude: anthropic.Anthropic) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "There was once a"}]
    message = ask(claude, messages=begun)
    other = openai(keyed, messages=begun, continue_final_message=True)
    assert message.content[0].text == other["choices"][0]["message"]["content"]
    counted = claude.messages.count_tokens(model=MODEL, messages=begun).input_tokens
    assert counted == other["usage"]["prompt_tokens"]


def test_structured_output(claude: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 30}}}
    schema |= {"required": ["age"], "additionalProperties": False}
    form = {"type": "json_schema", "schema": schema}
    for extra in ({"output_config": {"format": form}}, {"output_format": form}):
        made = json.loads(ask(claude, extra, max_tokens=60).content[0].text)
        assert set(made) == {"age"} and 0 <= made["age"] <= 30


def test_errors(keyed: Served, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask(anthropic.Anthropic(base_url=keyed.url, api_key="wrong", max_retries=0))
    assert caught.value.body["type"] == "error" and caught.value.body["error"]["type"] == "authentication_error"  # type: ignore
    bearer = anthropic.Anthropic(base_url=keyed.url, auth_token=KEY, max_retries=0)
    assert ask(bearer).content
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(claude, model="claude-none")
    assert MODEL in str(missing.value) and missing.value.request_id
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    searching = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"messages": [{"role": "user", "content": [image]}]}, "text only"),
        ({"tools": [searching]}, "web_search_20250305"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]}]}, "t9"),
        ({"messages": [*HELLO, {"role": "assistant", "content": [call]}]}, "last message"),
        ({"tool_choice": {"type": "any"}}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "prompt is too long"),
        ({"extra_body": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers"),
    ]
    for fields, word in bad:
        with pytest.raises(anthropic.BadRequestError) as refused:
            claude.messages.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 5, **fields})
        error = refused.value.body["error"]  # type: ignore[index]
        assert error["type"] == "invalid_request_error" and word in error["message"], error
    with keyed.client() as client:
        for path, status, kind in (
            ("/v1/messages/batches", 404, "not_found_error"),
            ("/v1/messages", 405, "invalid_request_error"),
        ):
            answer = client.get(path)
            assert answer.status_code == status and answer.json()["error"]["type"] == kind, answer.text
            assert answer.json()["request_id"] == answer.headers["request-id"]


def test_the_models_list(claude: anthropic.Anthropic) -> None:
    [card] = claude.models.list().data
    assert card.id == MODEL and card.type == "model" and card.display_name and card.created_at


def test_a_full_queue_and_a_client_that_leaves(packed_cache: Any) -> None:
    """429 in Anthropic's shape; a stream whose client has gone frees its place; nothing stays behind."""
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with Served("--max-running", "1", "--max-waiting", "1") as server:
        server.ready()
        claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
        with server.client() as one, one.stream("POST", "/v1/messages", json=body) as first:
            lines = first.iter_lines()  # kept: the stream is closed with it
            next(lines)
            with server.client() as two, two.stream("POST", "/v1/messages", json=body):
                server.until(lambda m: m["geminate:num_requests_waiting"] == 1)
                with pytest.raises(anthropic.RateLimitError) as full:
                    ask(claude)
                assert full.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
                assert full.value.response.headers["retry-after"]
        server.quiet()
        assert ask(claude).content
        aborted = [line for line in server.log if line.get("path") == "/v1/messages" and line.get("aborted")]
        assert len(aborted) == 2 and {line["status"] for line in aborted} == {499}


def test_an_error_inside_a_stream(packed_cache: Any) -> None:
    with Served("--request-seconds", "0.2") as server:
        server.ready()
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 1900, "ignore_eos": True, "stream": True}
        with server.client() as client:
            text = client.post("/v1/messages", json=body).text
        name, data = text.strip().split("\n\n")[-1].split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["type"] == "timeout_error"
        claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.APIStatusError) as late:
            ask(claude, {"ignore_eos": True}, max_tokens=1900)
        assert late.value.status_code == 504


def test_a_loading_server_is_overloaded() -> None:
    from geminate.server.app import create_app
    from geminate.server.settings import Settings

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(None, None, Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/messages", json={"model": "x"})

    answer = asyncio.run(send())
    assert answer.status_code == 529 and answer.json()["error"]["type"] == "overloaded_error"
    assert answer.headers["retry-after"]


def test_the_model_by_its_name(claude: anthropic.Anthropic) -> None:
    found = claude.models.retrieve(MODEL)
    assert (found.type, found.id, found.display_name) == ("model", MODEL, MODEL) and found.created_at.year >= 2025
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("gpt-4")


def test_the_tool_runner_goes_on_without_threads(claude: anthropic.Anthropic) -> None:
    @anthropic.beta_tool
    def now() -> str:
        """What time it is."""
        return "noon"

    runner = claude.beta.messages.tool_runner(
        model=MODEL, max_tokens=40, tools=[now], messages=[{"role": "user", "content": "Hello"}]
    )
    assert runner.until_done().role == "assistant"
