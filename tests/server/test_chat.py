"""``/v1/chat/completions``: streamed and whole answers agree, fields do what they say, drafts change nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from geminate import LLM, SamplingParams
from support.serving import chat_body, stream

PATH = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post(PATH, json=chat_body(**fields))
    assert response.status_code == 200, response.text
    return response.json()


def joined(chunks: list[Any], choice: int = 0, field: str = "content") -> str:
    return "".join(c["delta"].get(field) or "" for chunk in chunks for c in chunk["choices"] if c["index"] == choice)


def test_answer_is_the_librarys(client: httpx.Client, llm: LLM) -> None:
    out = llm.chat([{"role": "user", "content": "Tell me a story."}], SamplingParams(seed=5, max_tokens=40))
    body = ask(client, seed=5, max_tokens=40)
    choice = body["choices"][0]
    assert choice["message"]["content"] == out.text
    assert choice["finish_reason"] == out.finish_reason
    assert body["usage"]["completion_tokens"] == len(out.token_ids)
    assert body["usage"]["prompt_tokens"] == len(out.prompt_token_ids)
    assert body["usage"]["total_tokens"] == len(out.token_ids) + len(out.prompt_token_ids)
    assert body["id"].startswith("chatcmpl-") and body["object"] == "chat.completion"
    assert body["system_fingerprint"].startswith("fp_")


@pytest.mark.parametrize("speculation", ["off", "ngram", 3, 16])
def test_speculation_changes_nothing_but_the_drafts(client: httpx.Client, speculation: object) -> None:
    plain = ask(client, seed=3, max_tokens=60, logprobs=True, top_logprobs=2)
    other = ask(client, seed=3, max_tokens=60, logprobs=True, top_logprobs=2, speculation=speculation)
    assert other["choices"] == plain["choices"]
    if speculation == "off":
        assert other["timings"]["draft_n"] == 0
    if speculation == 3:
        assert set(other["timings"]["draft_lengths"]) <= {"0", "1", "2", "3"} and other["timings"]["draft_n"] > 0


def test_stream_says_the_same(client: httpx.Client) -> None:
    fields = {"seed": 7, "max_tokens": 50, "n": 2, "logprobs": True, "top_logprobs": 1}
    whole = ask(client, **fields)
    chunks = stream(client, PATH, chat_body(stream_options={"include_usage": True}, **fields))
    for choice in whole["choices"]:
        index = choice["index"]
        assert joined(chunks, index) == choice["message"]["content"]
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert [e for p in parts for e in p["logprobs"]["content"]] == choice["logprobs"]["content"]
        assert [p["finish_reason"] for p in parts if p["finish_reason"]] == [choice["finish_reason"]]
        assert parts[0]["delta"]["role"] == "assistant" and all("role" not in p["delta"] for p in parts[1:])
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    counted = {k: v for k, v in chunks[-1]["usage"].items() if k != "prompt_tokens_details"}
    assert counted == {k: v for k, v in whole["usage"].items() if k != "prompt_tokens_details"}
    assert chunks[-1]["timings"]["predicted_n"] == whole["usage"]["completion_tokens"]
    assert whole["choices"][0] != whole["choices"][1]


def test_stream_without_usage_ends_with_timings(client: httpx.Client) -> None:
    chunks = stream(client, PATH, chat_body(max_tokens=8, seed=1))
    assert "usage" not in chunks[0] and "timings" in chunks[-1] and chunks[-1]["choices"][0]["finish_reason"]


def test_trace_holds_every_token(client: httpx.Client) -> None:
    fields = {"seed": 2, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "speculation": 4}
    body = ask(client, trace=True, **fields)
    rounds = body["geminate"]["rounds"]
    assert sum(len(r["tokens"]) for r in rounds) == 40 == body["usage"]["completion_tokens"]
    assert sum(r["drafted"] for r in rounds) == body["timings"]["draft_n"]
    assert sum(r["accepted"] for r in rounds) == body["timings"]["draft_n_accepted"]
    drafted = sum(t["origin"] == "drafter" for r in rounds for t in r["tokens"])
    assert drafted == body["timings"]["draft_n_accepted"] > 0
    chunks = stream(client, PATH, chat_body(trace=True, **fields))
    streamed = [t for chunk in chunks for t in chunk.get("geminate", {}).get("tokens", [])]
    assert streamed == [t for r in rounds for t in r["tokens"]]
    off = ask(client, trace=True, **{**fields, "speculation": "off"})["geminate"]["rounds"]
    assert {t["origin"] for r in off for t in r["tokens"]} == {"target"}
    assert [t["id"] for r in off for t in r["tokens"]] == [t["id"] for t in streamed]


def test_timings_add_up(client: httpx.Client) -> None:
    timings = ask(client, seed=2, max_tokens=60, speculation=4)["timings"]
    assert sum(timings["accepted_per_position"]) == timings["draft_n_accepted"]
    assert sum(timings["drafted_per_position"]) == timings["draft_n"]
    assert sum(int(k) * n for k, n in timings["draft_lengths"].items()) == timings["draft_n"]
    rounds = sum(timings["draft_lengths"].values())
    assert sum(timings["undrafted"].values()) == timings["draft_lengths"]["0"] and timings["undrafted"]["prompt"] == 1
    assert timings["acceptance_length"] == pytest.approx(1 + timings["draft_n_accepted"] / rounds, abs=1e-3)
    assert timings["prompt_ms"] > 0 and timings["predicted_ms"] > 0


def test_logprobs_carry_bytes(client: httpx.Client) -> None:
    body = ask(client, seed=1, max_tokens=30, logprobs=True, top_logprobs=3)
    entries = body["choices"][0]["logprobs"]["content"]
    assert len(entries) == body["usage"]["completion_tokens"]
    specials = ("<turn|>", "<eos>", "<|tool_response>")
    text = b"".join(bytes(e["bytes"]) for e in entries if e["token"] not in specials).decode()
    assert text == body["choices"][0]["message"]["content"]
    assert all(len(e["top_logprobs"]) == 3 for e in entries)
    assert ask(client, seed=1, max_tokens=5)["choices"][0]["logprobs"] is None
    assert (
        ask(client, seed=1, max_tokens=5, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    )


def test_stop_strings_are_cut_off(client: httpx.Client) -> None:
    text = ask(client, seed=1, max_tokens=60)["choices"][0]["message"]["content"]
    stop = text[10:14]
    for answer in (
        ask(client, seed=1, max_tokens=60, stop=stop),
        ask(client, seed=1, max_tokens=60, stop=["@@", stop]),
    ):
        choice = answer["choices"][0]
        assert choice["message"]["content"] == text[: text.index(stop)] and choice["finish_reason"] == "stop"
    chunks = stream(client, PATH, chat_body(seed=1, max_tokens=60, stop=stop))
    assert joined(chunks) == text[: text.index(stop)]


def test_sampling_fields_count(client: httpx.Client) -> None:
    base = {"seed": 11, "max_tokens": 40}

    def text(**fields: Any) -> str:
        return ask(client, **base, **fields)["choices"][0]["message"]["content"]

    plain = text()
    assert text() == plain
    for fields in (
        {"temperature": 1.9, "top_k": 0, "top_p": 1.0},
        {"temperature": 0},
        {"top_k": 1},
        {"top_p": 0.01},
        {"min_p": 1.0},
        {"repetition_penalty": 3.0},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
    ):
        assert text(**fields) != plain, fields
    assert text(top_k=1) == text(min_p=1.0) == text(temperature=0)


def test_bias_bans_a_token(client: httpx.Client) -> None:
    fields = {"temperature": 0, "max_tokens": 1, "logprobs": True, "trace": True}
    first = ask(client, **fields)["geminate"]["rounds"][0]["tokens"][0]["id"]
    banned = ask(client, logit_bias={str(first): -100}, **fields)["geminate"]["rounds"][0]["tokens"][0]["id"]
    assert banned != first
    forced = ask(client, logit_bias={"3006": 100}, **fields)["geminate"]["rounds"][0]["tokens"][0]["id"]
    assert forced == 3006


def test_lengths(client: httpx.Client) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        body = ask(client, seed=1, ignore_eos=True, **{name: 7})
        assert body["usage"]["completion_tokens"] == 7 and body["choices"][0]["finish_reason"] == "length"
    body = ask(client, seed=1, ignore_eos=True, max_tokens=50, stop_token_ids=list(range(3000, 3064)))
    assert body["usage"]["completion_tokens"] <= 50


def test_a_conversations_next_turn_is_cached(client: httpx.Client) -> None:
    story = "Tell me a story about a dog and a very long walk. " * 8
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief. " * 40},
        {"role": "user", "content": story},
    ]
    first = client.post(PATH, json=chat_body(messages=messages, max_tokens=20, seed=1)).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    second = client.post(PATH, json=chat_body(messages=messages, max_tokens=20, seed=1))
    assert second.status_code == 200, second.text
    usage = second.json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


@pytest.mark.parametrize("speculation", ["off", "auto"])
def test_tool_calls(client: httpx.Client, speculation: str) -> None:
    fields = {"tools": [WEATHER], "seed": 4, "max_tokens": 80, "temperature": 1.5, "speculation": speculation}
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        body = ask(client, text="Weather in Paris?", tool_choice=choice, parallel_tool_calls=False, **fields)
        answer = body["choices"][0]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
        [call] = answer["message"]["tool_calls"]
        assert call["type"] == "function" and call["function"]["name"] == "get_weather" and call["id"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER["function"]["parameters"])
        chunks = stream(
            client, PATH, chat_body("Weather in Paris?", tool_choice=choice, parallel_tool_calls=False, **fields)
        )
        deltas = [d for c in chunks for x in c["choices"] for d in x["delta"].get("tool_calls", [])]
        assert deltas[0]["function"]["name"] == "get_weather" and deltas[0]["id"]
        assert "".join(d["function"]["arguments"] for d in deltas) == call["function"]["arguments"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tool_choice_none_calls_nothing(client: httpx.Client) -> None:
    plain = ask(client, text="Weather in Paris?", seed=4, max_tokens=30)
    none = ask(client, text="Weather in Paris?", seed=4, max_tokens=30, tools=[WEATHER], tool_choice="none")
    assert none["choices"] == plain["choices"]


def test_a_tools_answer_goes_back(client: httpx.Client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I must look."},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    ids = client.post("/tokenize", json={"messages": messages, "tools": [WEATHER]}).json()["tokens"]
    text = client.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>}<tool_call|>' in text
    assert '<|tool_response>response:get_weather{value:<|"|>sunny<|"|>}' in text and "I must look" not in text
    body = client.post(PATH, json=chat_body(messages=messages, tools=[WEATHER], max_tokens=20, seed=1)).json()
    assert body["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_formats(client: httpx.Client, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    forms = {
        "json_schema": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
        "regex": {"type": "regex", "regex": "(yes|no), [0-9]{3}"},
        "grammar": {"type": "grammar", "grammar": 'start: "a" ("b" | "c")'},
    }
    for kind, form in forms.items():
        fields = {"response_format": form, "temperature": temperature, "seed": 6, "max_tokens": 100}
        on, off = ask(client, speculation=4, **fields), ask(client, speculation="off", **fields)
        assert on["choices"] == off["choices"]
        text = on["choices"][0]["message"]["content"]
        if kind == "json_schema":
            jsonschema.validate(json.loads(text), schema)
        else:
            assert text in ("ab", "ac") if kind == "grammar" else text[-3:].isdigit(), text
    text_form = ask(client, seed=1, max_tokens=10, response_format={"type": "text"})
    assert text_form["choices"] == ask(client, seed=1, max_tokens=10)["choices"]


def test_thinking_reaches_the_template(client: httpx.Client) -> None:
    plain = ask(client, max_tokens=4, seed=1)["usage"]["prompt_tokens"]
    for fields in ({"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "high"}):
        assert ask(client, max_tokens=4, seed=1, **fields)["usage"]["prompt_tokens"] > plain
    for fields in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "minimal"}):
        assert ask(client, max_tokens=4, seed=1, **fields)["usage"]["prompt_tokens"] == plain


def test_thoughts_stand_apart(client: httpx.Client) -> None:
    """A grammar makes the model think, since the embedded one was not taught to."""
    grammar = 'start: <[100]> "thought\\nhm" <[101]> "yes"'
    fields = {"response_format": {"type": "grammar", "grammar": grammar}, "max_tokens": 40, "seed": 1}
    body = ask(client, **fields)
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "yes")
    assert 0 < body["usage"]["completion_tokens_details"]["reasoning_tokens"] < body["usage"]["completion_tokens"]
    chunks = stream(client, PATH, chat_body(**fields))
    assert (joined(chunks, field="reasoning_content"), joined(chunks)) == ("hm", "yes")


def test_nulls_count_as_absent(client: httpx.Client) -> None:
    nulls = ("temperature", "stop", "seed", "tools", "tool_choice", "audio", "store", "user", "response_format", "n")
    assert ask(client, max_tokens=3, **dict.fromkeys(nulls))["choices"]
