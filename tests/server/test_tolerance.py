"""What other servers' clients send: fields without an effect, values that mean "off", and foreign histories."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from geminate.server.http.errors import ApiError
from geminate.server.http.parsing import validated
from geminate.server.http.tolerance import MAX_HEADER, Level, header
from geminate.server.openai.conversation import chat_messages, response_messages
from geminate.server.openai.schemas_chat import ChatRequest, CompletionRequest
from geminate.server.openai.schemas_responses import ResponseRequest
from geminate.server.openai.tolerated import CHAT, COMPLETION, RESPONSE

HELLO = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
APIS: dict[str, tuple[type[BaseModel], Level, dict[str, Any]]] = {
    "chat": (ChatRequest, CHAT, {"model": "m", "messages": [HELLO]}),
    "completion": (CompletionRequest, COMPLETION, {"model": "m", "prompt": "Hi"}),
    "response": (ResponseRequest, RESPONSE, {"model": "m", "input": "Hi"}),
}


def read(api: str, fields: dict[str, Any], *, strict: bool = False) -> tuple[Any, list[str]]:
    model, level, body = APIS[api]
    ignored: list[str] = []
    made = validated(json.dumps({**body, **fields}).encode(), model, level, ignored, strict=strict)
    return made, ignored


def sampled(made: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = made.model_dump(exclude_none=True)
    return {name: value for name, value in dumped.items() if name not in ("model", "messages", "prompt", "input")}


@pytest.mark.parametrize(
    ("api", "fields", "ignored"),
    [
        ("chat", {"messages": [{**HELLO, "name": "bob"}, {**HELLO, "name": "eve"}]}, ["messages[].name"]),
        ("chat", {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "k"},
         ["metadata", "store", "prompt_cache_key"]),
        ("chat", {"verbosity": "low", "service_tier": "flex", "prediction": {"type": "content", "content": "x"}},
         ["verbosity", "service_tier", "prediction"]),
        ("chat", {"parallel_tool_calls": True}, ["parallel_tool_calls"]),
        ("chat", {"stream_options": {"include_usage": True}}, ["stream_options"]),
        ("chat", {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]},
         ["messages[].content[].cache_control"]),
        ("chat", {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]}, ["tools[].cache_control"]),
        ("chat", {"tools": [{"type": "function", "function": {"name": "f", "cache_control": {}}}]},
         ["tools[].function.cache_control"]),
        ("chat", {"cache_prompt": True, "repeat_last_n": 64}, ["cache_prompt", "repeat_last_n"]),
        ("completion", {"metadata": {}, "cache_prompt": False}, ["metadata", "cache_prompt"]),
        ("response", {"prompt_cache_key": "k", "client_metadata": {"a": "b"}, "truncation": "auto"},
         ["prompt_cache_key", "client_metadata", "truncation"]),
        ("response", {"include": ["reasoning.encrypted_content"]}, ["include"]),
        ("response", {"reasoning": {"effort": "low", "summary": "auto"}}, ["reasoning.summary"]),
        ("response", {"text": {"verbosity": "high"}}, ["text.verbosity"]),
        ("response", {"input": [{"role": "assistant", "content": "x", "phase": "final_answer"}]}, ["input[].phase"]),
        ("response", {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}],
                                 "encrypted_content": "gAAA"}, HELLO]},
         ["input[].summary", "input[].encrypted_content"]),
    ],
)  # fmt: skip
def test_hints_are_dropped_and_named(api: str, fields: dict[str, Any], ignored: list[str]) -> None:
    _, found = read(api, fields)
    assert sorted(found) == sorted(ignored)
    with pytest.raises(ApiError) as caught:
        read(api, fields, strict=True)
    assert caught.value.status == 400 and caught.value.param


@pytest.mark.parametrize(
    ("api", "fields", "means"),
    [
        ("chat", {"top_k": -1}, {"top_k": 0}),
        ("chat", {"seed": -1, "max_tokens": -1, "max_completion_tokens": -1}, {}),
        ("chat", {"n_predict": 7}, {"max_tokens": 7}),
        ("chat", {"n_predict": -1}, {}),
        ("chat", {"max_new_tokens": 7, "max_tokens": 7}, {"max_tokens": 7}),
        ("chat", {"stop": ""}, {}),
        ("chat", {"stop": [""]}, {}),
        ("chat", {"stop": ["", "a"]}, {"stop": ["a"]}),
        ("chat", {"top_p": 0}, {"top_p": 1e-9}),
        ("chat", {"functions": [], "function_call": "none", "tools": [], "tool_choice": "auto"}, {"tools": []}),
        ("chat", {"logprobs": False, "top_logprobs": 0}, {"logprobs": False}),
        ("chat", {"repeat_penalty": 1.0, "min_tokens": 0, "typical_p": 1, "mirostat": 0, "use_beam_search": False}, {}),
        ("chat", {"repeat_penalty": 1.3, "repeat_last_n": -1}, {"repetition_penalty": 1.3}),
        ("chat", {"made_up": None, "audio": None, "model_extra": None, "stream_options": {"x": None}},
         {"stream_options": {}}),
        ("response", {"max_output_tokens": -1, "top_k": -1, "seed": -1}, {"top_k": 0}),
        ("response", {"made_up": None, "stop": None, "tools": [], "tool_choice": "auto"}, {"tools": []}),
        ("completion", {"logprobs": False, "suffix": "", "stop": [""], "best_of": 1}, {"best_of": 1}),
    ],
)  # fmt: skip
def test_off_elsewhere(api: str, fields: dict[str, Any], means: dict[str, Any]) -> None:
    made, _ = read(api, {"stream": True, **fields} if "stream_options" in fields else fields)
    found = sampled(made)
    found.pop("stream", None)
    assert found == means


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": {"type": "object"}},
        {"guided_json": '{"type": "object"}'},
        {"structured_outputs": {"json": {"type": "object"}, "regex": None}},
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        {"response_format": {"type": "json_schema", "schema": {"type": "object"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
        {"json_schema": {"type": "object"}},
    ],
)
def test_schemas_under_other_names(fields: dict[str, Any]) -> None:
    made, ignored = read("chat", fields)
    assert made.response_format.type == "json_schema" and not ignored
    assert made.response_format.json_schema.schema_ == {"type": "object"}


def test_choices_are_a_regex() -> None:
    made, _ = read("chat", {"guided_choice": ["yes", "no (1.5)"]})
    assert made.response_format.regex == r"yes|no\ \(1\.5\)"


@pytest.mark.parametrize(
    ("api", "fields", "param", "word"),
    [
        ("chat", {"repeat_penalty": 1.3}, "repeat_penalty", "repetition_penalty"),
        ("chat", {"min_tokens": 3}, "min_tokens", "ignore_eos"),
        ("chat", {"mirostat": 2}, "mirostat", "min_p"),
        ("chat", {"functions": [{"name": "f"}]}, "functions", "tools"),
        ("chat", {"function_call": {"name": "f"}}, "function_call", "tool_choice"),
        ("chat", {"guided_grammar": "root ::= x"}, "guided_grammar", "Lark"),
        ("chat", {"guided_json": 3}, "guided_json", "schema"),
        ("chat", {"guided_json": {}, "response_format": {"type": "text"}}, "guided_json", "response_format"),
        ("chat", {"n_predict": 3, "max_tokens": 4}, "n_predict", "max_tokens"),
        ("chat", {"thinking": {"type": "enabled"}}, "thinking", "reasoning_effort"),
        ("chat", {"made_up": 1}, "made_up", "not a supported field"),
        ("chat", {"tools": [{"type": "web_search"}]}, "tools[0].type", '"web_search"'),
        ("chat", {"messages": [{**HELLO, "images": ["x"]}]}, "messages[0].images", "text only"),
        ("chat", {"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content", "must be a string"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
         "messages[0].content[0].text", "must be a string"),
        ("chat", {"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]", "object"),
        ("chat", {"messages": [{"role": "alien", "content": ""}]}, "messages[0].role", "'assistant'"),
        ("chat", {"messages": [{"content": ""}]}, "messages[0].role", "missing"),
        ("chat", {"messages": [HELLO, "x"]}, "messages[1]", "object"),
        ("chat", {"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ("chat", {"response_format": "json"}, "response_format", "object"),
        ("completion", {"suffix": "x"}, "suffix", "fill-in-the-middle"),
        ("completion", {"guided_json": {}}, "guided_json", "/v1/chat/completions"),
        ("response", {"tools": [{"type": "web_search"}]}, "tools[0].type", '"web_search"'),
        ("response", {"tools": [{"type": "local_shell"}]}, "tools[0].type", "local_shell"),
        ("response", {"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "mcp"),
        ("response", {"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type", "web_search_call"),
        ("response", {"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ("response", {"max_tokens": 3}, "max_tokens", "max_output_tokens"),
        ("response", {"stop": "x"}, "stop", "chat"),
    ],
)  # fmt: skip
def test_what_changes_the_answer_is_refused_with_a_way_out(
    api: str, fields: dict[str, Any], param: str, word: str
) -> None:
    with pytest.raises(ApiError) as caught:
        read(api, fields)
    assert (caught.value.status, caught.value.param) == (400, param) and word in caught.value.message
    for inner in ("TextPart", "Message", "_item_type", "function-", "list[", "str:", "discriminator"):
        assert inner not in caught.value.message


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        ({"content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"content": "x", "reasoning": "r", "provider_specific_fields": {"a": 1}, "thinking_blocks": [1]},
         {"content": "x", "reasoning_content": "r"}),
        ({"content": "x", "reasoning_content": "r", "reasoning": "r", "reasoning_details": []},
         {"content": "x", "reasoning_content": "r"}),
        ({"content": None, "refusal": "I will not."}, {"content": "I will not."}),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, {"content": "No."}),
        ({"content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "x"}]}, {"content": "x"}),
        ({"content": "x", "annotations": [{"type": "url_citation"}], "audio": None, "\ud55c\u2603": 1},
         {"content": "x"}),
    ],
)  # fmt: skip
def test_histories_of_other_servers(message: dict[str, Any], becomes: dict[str, Any]) -> None:
    made, _ = read("chat", {"messages": [HELLO, {"role": "assistant", **message}, HELLO]})
    assert chat_messages(made.messages)[1] == {"role": "assistant", **becomes}


@pytest.mark.parametrize(
    ("arguments", "becomes"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        (None, {}),
        ('{"path": "Amer', {"path": "Amer"}),
        ('{"path": "Amer\\', {"path": "Amer"}),
        ('{"path": "Amer\\u00', {"path": "Amer"}),
        ('{"a": 1, "b": tru', {"a": 1}),
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}),
        ('{"a": {"b": 1}, "c', {"a": {"b": 1}}),
        ('{"a": ', {}),
        ("[1]", {}),
        ("f(1)", {}),
        ('"x"', {}),
        ("{" * 5000, {}),
    ],
)
def test_arguments_of_other_servers(arguments: object, becomes: dict[str, Any]) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments, "parsed_arguments": {}}, "extra_content": {}}
    result = {"role": "tool", "tool_call_id": "c", "content": None, "is_error": False}
    made, ignored = read("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}, result]})
    messages = chat_messages(made.messages)
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == becomes and messages[1]["content"] == ""
    assert "messages[].tool_calls[].extra_content" in ignored
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, "provider_data": 1}
    made, ignored = read("response", {"input": [item]})
    [message] = response_messages(None, made.input)
    assert message["tool_calls"][0]["function"]["arguments"] == becomes and "input[].provider_data" in ignored


def test_the_header_holds_any_name() -> None:
    names = ["x" * 5000, "\r\nSet-Cookie: a=b", "\ud55c", "a, b", "\x00", ""]
    _, ignored = read("chat", {"messages": [{"role": "assistant", "content": "x", **dict.fromkeys(names, 1)}]})
    assert len(ignored) == len(names)
    value = header(ignored)
    assert value.isascii() and value.decode().isprintable() and len(value) <= MAX_HEADER
    many = {f"n{i}": 1 for i in range(900)}
    _, ignored = read("chat", {"messages": [{"role": "assistant", "content": "x", **many}]})
    assert len(header(ignored)) <= MAX_HEADER and header(ignored).endswith(b", ...")
