"""Ollama's client, unchanged, against a real server: chat, generate, what it asks about models, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from support.serving import MODEL, Served, chat_body

KEY = "sk-ollama-test-0123456789"
HELLO: list[Any] = [{"role": "user", "content": "Tell me a story."}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
FORCED = {"type": "grammar", "grammar": 'start: <[100]> "thought\\nhm" <[101]> "yes"'}
SHORT = {"seed": 1, "num_predict": 30}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """A server with a key."""
    with Served(env={"GEMINATE_API_KEYS": KEY}, key=KEY) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def client(keyed: Served) -> ollama.Client:
    return ollama.Client(host=keyed.url, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture(scope="module")
def wire(keyed: Served) -> Iterator[httpx.Client]:
    with keyed.client() as made:
        yield made


def posted(wire: httpx.Client, path: str, **body: Any) -> Any:
    response = wire.post(path, json={"model": MODEL, "stream": False, **body})
    assert response.status_code == 200, response.text
    return response.json()


def lines(wire: httpx.Client, path: str, **body: Any) -> list[Any]:
    response = wire.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson", response.text
    return [json.loads(line) for line in response.text.splitlines()]


def openai(wire: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    response = wire.post(path, json={"seed": 1, "max_tokens": 30, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_chat_is_the_chat_routes(client: ollama.Client, wire: httpx.Client) -> None:
    whole = client.chat(MODEL, HELLO, options=SHORT)
    other = openai(wire, **chat_body())
    assert whole.message.content == other["choices"][0]["message"]["content"]
    assert (whole.prompt_eval_count, whole.eval_count) == (
        other["usage"]["prompt_tokens"],
        other["usage"]["completion_tokens"],
    )
    assert whole.done and whole.done_reason == other["choices"][0]["finish_reason"] and whole.model == MODEL
    assert whole.load_duration == 0 and whole.eval_duration and whole.prompt_eval_duration
    assert whole.total_duration and whole.total_duration >= whole.eval_duration + whole.prompt_eval_duration
    parts = list(client.chat(f"{MODEL}:latest", HELLO, options=SHORT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    longer = {**SHORT, "num_predict": 400}  # the tokens of a fast machine come several in a part
    assert len(list(client.chat(MODEL, HELLO, options=longer, stream=True))) > 2
    assert parts[-1].eval_count == whole.eval_count and parts[-1].done_reason == whole.done_reason
    assert parts[0].model == f"{MODEL}:latest" and parts[0].created_at


def test_generate(client: ollama.Client, wire: httpx.Client) -> None:
    asked = client.generate(MODEL, "Tell me a story.", system="Be brief.", options=SHORT)
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert asked.response == openai(wire, **chat_body(messages=messages))["choices"][0]["message"]["content"]
    parts = list(client.generate(MODEL, "Tell me a story.", system="Be brief.", options=SHORT, stream=True))
    assert "".join(part.response or "" for part in parts) == asked.response and parts[-1].done
    raw = client.generate(MODEL, "Once upon a time", raw=True, options=SHORT)
    other = openai(wire, "/v1/completions", model=MODEL, prompt="Once upon a time")
    assert raw.response == other["choices"][0]["text"] and raw.prompt_eval_count == other["usage"]["prompt_tokens"]
    parts = list(client.generate(MODEL, "Once upon a time", raw=True, options=SHORT, stream=True))
    assert "".join(part.response or "" for part in parts) == raw.response


def test_an_async_client(keyed: Served) -> None:
    async def run() -> set[str | None]:
        client = ollama.AsyncClient(host=keyed.url, headers={"Authorization": f"Bearer {KEY}"})
        many = await asyncio.gather(*(client.chat(MODEL, HELLO, options=SHORT) for _ in range(6)))
        streamed = [part.message.content async for part in await client.chat(MODEL, HELLO, options=SHORT, stream=True)]
        return {"".join(part or "" for part in streamed), *(one.message.content for one in many)}

    assert len(asyncio.run(run())) == 1


def test_curl_without_a_content_type(wire: httpx.Client) -> None:
    """Ollama's own examples are ``curl URL -d JSON``; a browser that sends such a body is refused."""
    body = json.dumps({"model": MODEL, "prompt": "Hi", "stream": False, "options": {"num_predict": 3}})
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert wire.post("/api/generate", content=body, headers=form).status_code == 200
    assert wire.post("/api/generate", content=body).status_code == 200
    origin = {**form, "origin": "http://localhost"}
    assert wire.post("/api/generate", content=body, headers=origin).status_code == 400
    assert wire.post("/v1/chat/completions", content=body, headers=form).status_code == 400


def test_options(client: ollama.Client, wire: httpx.Client) -> None:
    same: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_k": 1.0}, {"top_k": 1}),
        ({"top_k": -1, "min_p": 0.2}, {"top_k": 0, "min_p": 0.2}),
        ({"top_p": 0.01}, {"top_p": 0.01}),
        ({"repeat_penalty": 3.0}, {"repetition_penalty": 3.0}),
        ({"repeat_penalty": 3.0, "repeat_last_n": 0}, {}),
        ({"presence_penalty": 2.0, "frequency_penalty": 2.0}, {"presence_penalty": 2.0, "frequency_penalty": 2.0}),
        ({"stop": [" a", ""]}, {"stop": [" a"]}),
        ({"typical_p": 1.0, "tfs_z": 1, "mirostat": 0, "num_ctx": 4096, "num_gpu": 99}, {}),
    ]
    for options, fields in same:
        mine = client.chat(MODEL, HELLO, options={**SHORT, **options})
        other = openai(wire, **chat_body(**fields))["choices"][0]
        assert (mine.message.content, mine.done_reason) == (other["message"]["content"], other["finish_reason"]), (
            options
        )
    seeds = {client.chat(MODEL, HELLO, options={"seed": -1, "num_predict": 40}).message.content for _ in range(3)}
    assert len(seeds) > 1
    assert client.chat(MODEL, HELLO, options={"num_predict": 4}).eval_count == 4
    assert client.generate(MODEL, "Hi", options={"num_predict": -1}).done
    for options, word in (({"mirostat": 2}, "mirostat"), ({"typical_p": 0.5}, "typical_p"), ({"top_p": 7}, "top_p")):
        with pytest.raises(ollama.ResponseError) as refused:
            client.chat(MODEL, HELLO, options=options)
        assert refused.value.status_code == 400 and word in refused.value.error


def test_what_has_no_effect_is_named(wire: httpx.Client) -> None:
    body = {"model": MODEL, "messages": HELLO, "stream": False, "keep_alive": "5m"}
    answer = wire.post("/api/chat", json={**body, "options": {"num_predict": 2, "num_ctx": 8192, "repeat_last_n": 64}})
    assert answer.headers["x-geminate-ignored"] == "keep_alive, options.num_ctx, options.repeat_last_n"


def test_formats(client: ollama.Client, wire: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 30}}}
    schema |= {"required": ["age"], "additionalProperties": False}
    for ask in (
        lambda: client.chat(MODEL, HELLO, format=schema, options=SHORT).message.content,
        lambda: client.generate(MODEL, "A pet", format=schema, options=SHORT).response,
    ):
        made = json.loads(ask() or "")
        assert set(made) == {"age"} and 0 <= made["age"] <= 30
    loose = client.chat(MODEL, HELLO, format="json", options={"temperature": 0, "num_predict": 200})
    if loose.done_reason == "stop":
        assert isinstance(json.loads(loose.message.content or ""), dict)
    assert client.chat(MODEL, HELLO, format="", options=SHORT).message.content
    answer = posted(wire, "/api/chat", messages=HELLO, response_format={"type": "regex", "regex": "yes|no"})
    assert answer["message"]["content"] in ("yes", "no")


def test_thinking(client: ollama.Client, wire: httpx.Client) -> None:
    """A grammar makes the model think, since the embedded one was not taught to."""
    chat = posted(wire, "/api/chat", messages=HELLO, response_format=FORCED)
    assert (chat["message"]["thinking"], chat["message"]["content"]) == ("hm", "yes")
    made = lines(wire, "/api/generate", prompt="Hi", response_format=FORCED)
    assert "".join(line.get("thinking", "") for line in made) == "hm"
    assert "".join(line["response"] for line in made) == "yes"
    counts = [client.chat(MODEL, HELLO, think=think, options=SHORT).prompt_eval_count for think in (None, False, True)]
    assert counts[0] == counts[1] < counts[2]  # type: ignore[operator]
    assert client.chat(MODEL, HELLO, think="low", options=SHORT).prompt_eval_count == counts[2]
    history = [*HELLO, chat["message"], {"role": "user", "content": "And?"}]
    assert client.chat(MODEL, history, options=SHORT).message.content


@pytest.mark.parametrize("stream", [False, True])
def test_tools_there_and_back(client: ollama.Client, wire: httpx.Client, stream: bool) -> None:
    """The grammar of a strict reply stands in for a choice, which Ollama does not have."""
    question = [{"role": "user", "content": "Weather in Paris?"}]
    forced = _calling(wire, question)
    fields: dict[str, Any] = {"messages": question, "tools": [WEATHER], "options": {"num_predict": 80, "seed": forced}}
    if stream:
        parts = [part.message for part in client.chat(MODEL, stream=True, **fields)]
        [call] = [call for part in parts for call in part.tool_calls or ()]
        message: Any = {"role": "assistant", "content": "", "tool_calls": [call]}
    else:
        message = client.chat(MODEL, **fields).message
        [call] = message.tool_calls
    assert call.function.name == "get_weather" and call.function.arguments["city"] in ("Paris", "Rome")
    result = {"role": "tool", "content": "sunny", "tool_name": "get_weather"}
    answer = client.chat(MODEL, [*question, message, result], options=SHORT)
    arguments = json.dumps(dict(call.function.arguments))
    same = openai(
        wire,
        **chat_body(
            messages=[
                *question,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "x", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
                    ],
                },
                {"role": "tool", "tool_call_id": "x", "content": "sunny"},
            ]
        ),
    )
    assert answer.message.content == same["choices"][0]["message"]["content"]


def _calling(wire: httpx.Client, question: list[Any]) -> int:
    """A seed with which the model calls the tool once, all of it."""
    for seed in range(200):
        body = chat_body(messages=question, tools=[WEATHER], seed=seed, max_tokens=80)
        choice = wire.post("/v1/chat/completions", json=body).json()["choices"][0]
        if choice["finish_reason"] == "tool_calls" and len(choice["message"]["tool_calls"]) == 1:
            if not choice["message"]["content"]:
                return seed
    pytest.skip("the embedded model called no tool")


def test_results_find_their_calls(wire: httpx.Client) -> None:
    def call(name: str, n: int) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"n": n}}}

    history = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "", "tool_calls": [call("a", 1), call("b", 2), call("a", 3)]},
    ]
    for results in (
        [{"tool_name": "b", "content": "B"}, {"name": "a", "content": "A1"}, {"content": "A3"}],
        [{"content": "A1"}, {"content": "B"}, {"content": "A3"}],
    ):
        messages = [*history, *({"role": "tool", **result} for result in results)]
        assert posted(wire, "/api/chat", messages=messages, options={"num_predict": 2})["done"]
    for bad in ([{"tool_name": "c", "content": "C"}], [{"content": str(n)} for n in range(4)]):
        messages = [*history, *({"role": "tool", **result} for result in bad)]
        answer = wire.post("/api/chat", json={"model": MODEL, "messages": messages})
        assert answer.status_code == 400 and "no earlier call" in answer.json()["error"]


def test_an_answer_that_is_begun_goes_on(client: ollama.Client, wire: httpx.Client) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "There was once a"}]
    other = openai(wire, **chat_body(messages=begun, continue_final_message=True))
    assert client.chat(MODEL, begun, options=SHORT).message.content == other["choices"][0]["message"]["content"]


def test_logprobs_and_trace(wire: httpx.Client) -> None:
    options = {"seed": 1, "num_predict": 6}
    other = openai(wire, **chat_body(max_tokens=6, logprobs=True, top_logprobs=2, trace=True))
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "trace": True, "options": options}
    chat = posted(wire, "/api/chat", messages=HELLO, **fields)
    assert chat["logprobs"] == other["choices"][0]["logprobs"]["content"]
    ids = [token["id"] for line in chat["geminate"]["rounds"] for token in line["tokens"]]
    assert ids == [token["id"] for line in other["geminate"]["rounds"] for token in line["tokens"]]
    made = lines(wire, "/api/chat", messages=HELLO, **fields)
    assert [entry for line in made for entry in line.get("logprobs", ())] == chat["logprobs"]
    raw = posted(wire, "/api/generate", prompt="Once", raw=True, **fields)
    assert len(raw["logprobs"]) == 6 and raw["logprobs"][0]["top_logprobs"]


def test_what_clients_ask_about_models(client: ollama.Client, wire: httpx.Client) -> None:
    [model] = client.list().models
    assert model.model == MODEL and model.size and model.details and model.details.parameter_size and model.modified_at
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools", "thinking"] and shown.template and shown.modelinfo
    assert any(name.endswith(".context_length") for name in shown.modelinfo)
    [loaded] = client.ps().models
    assert loaded.model == MODEL and loaded.context_length and loaded.expires_at
    assert wire.get("/api/version").json()["version"]
    assert wire.head("/api/tags").status_code == 200 and wire.head("/").status_code == 200
    for loading in (client.generate(MODEL, ""), client.generate(MODEL, keep_alive=0), client.chat(MODEL, [])):
        assert loading.done and loading.done_reason == "load"
    assert wire.post("/api/show", json={"name": f"{MODEL}:latest"}).status_code == 200


def test_errors(client: ollama.Client, keyed: Served, wire: httpx.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(host=keyed.url, headers={"Authorization": "Bearer wrong"}).chat(MODEL, HELLO)
    assert caught.value.status_code == 401 and "key" in caught.value.error
    for ask in (lambda: client.chat("llama3", HELLO), lambda: client.show("llama3"), lambda: client.generate("llama3")):
        with pytest.raises(ollama.ResponseError) as missing:
            ask()
        assert missing.value.status_code == 404 and MODEL in missing.value.error
    refused = {
        "pull": lambda: client.pull("llama3"),
        "create": lambda: client.create("x", from_=MODEL),
        "delete": lambda: client.delete(MODEL),
        "copy": lambda: client.copy(MODEL, "x"),
        "embed": lambda: client.embed(MODEL, "x"),
        "embeddings": lambda: client.embeddings(MODEL, "x"),
    }
    for name, act in refused.items():
        with pytest.raises(ollama.ResponseError) as error:
            act()
        assert error.value.status_code == 400 and f"/api/{name} is not supported: " in error.value.error
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, "context"),
        ("/api/generate", {"prompt": "x", "images": ["AA=="]}, "images"),
        ("/api/generate", {"prompt": "x", "raw": True, "format": "json"}, "format"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["AA=="]}]}, "images"),
        ("/api/chat", {"messages": HELLO, "format": "xml"}, "format"),
        ("/api/chat", {"messages": [{"role": "user", "content": "word " * 3000}]}, "context"),
        ("/api/nothing", {}, "/api/chat"),
    ]
    for path, body, word in bad:
        answer = wire.post(path, json={"model": MODEL, **body})
        assert answer.status_code in (400, 404) and set(answer.json()) == {"error"}, answer.text
        assert word in answer.json()["error"], answer.text


def test_a_full_queue_and_a_client_that_leaves(packed_cache: Any) -> None:
    """429 in Ollama's shape; a stream whose client has gone frees its place; an error inside a stream is a line."""
    body = {"model": MODEL, "prompt": "Tell me a story.", "raw": True, "options": {"num_predict": 1900, "stop": "@@"}}
    flags = ("--max-running", "1", "--max-waiting", "1", "--request-seconds", "300")
    with Served(*flags) as server:
        server.ready()
        client = ollama.Client(host=server.url)
        endless = {"model": MODEL, "messages": HELLO, "max_tokens": 1900, "ignore_eos": True, "stream": True}
        with server.client() as one, one.stream("POST", "/v1/chat/completions", json=endless) as first:
            kept = first.iter_lines()
            next(kept)
            with server.client() as two, two.stream("POST", "/api/generate", json=body):
                server.until(lambda m: m["geminate:num_requests_waiting"] == 1)
                with pytest.raises(ollama.ResponseError) as full:
                    client.chat(MODEL, HELLO)
                assert full.value.status_code == 429
            server.until(lambda m: m["geminate:num_requests_waiting"] == 0)
        server.quiet()
        assert client.chat(MODEL, HELLO, options=SHORT).done
        server.wait_log("request", path="/api/generate", aborted=True, status=499)


def test_an_error_inside_a_stream(packed_cache: Any) -> None:
    with Served("--request-seconds", "0.1") as server:
        server.ready()
        client = ollama.Client(host=server.url)
        endless: dict[str, Any] = {
            "format": {"type": "string", "minLength": 5000},
            "options": {"num_predict": 1900, "seed": 1},
        }
        with pytest.raises(ollama.ResponseError) as late:
            for _ in client.generate(MODEL, "Once upon a time", stream=True, **endless):
                pass
        assert "0.1" in late.value.error
        with pytest.raises(ollama.ResponseError) as whole:
            client.generate(MODEL, "Once upon a time", **endless)
        assert whole.value.status_code == 504
