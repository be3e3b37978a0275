"""``/v1/responses``: events in order, items there and back, and nothing stored."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from geminate.server.kept_items import KeptItems
from support.serving import MODEL

PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
THOUGHTFUL = {"type": "grammar", "grammar": 'start: <[100]> "thought\\nhm" <[101]> "yes"'}


def ask(client: httpx.Client, input: Any = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    response = client.post(PATH, json={"model": MODEL, "input": input, "seed": 3, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def streamed(client: httpx.Client, input: Any = "Tell me a story.", **fields: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "input": input, "seed": 3, "stream": True, **fields}
    with client.stream("POST", PATH, json=body) as response:
        assert response.status_code == 200, response.read()
        lines = list(response.iter_lines())
    made = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [line[7:] for line in lines if line.startswith("event: ")] == [e["type"] for e in made]
    assert [e["sequence_number"] for e in made] == list(range(len(made)))
    return made


def plain(response: dict[str, Any]) -> Any:
    """What does not change from run to run."""
    return [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]


def test_answer_is_chats(client: httpx.Client) -> None:
    body = ask(client, max_output_tokens=30)
    chat = client.post(
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "seed": 3,
            "max_tokens": 30,
        },
    ).json()
    assert body["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert body["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    assert body["store"] is False and body["object"] == "response"


def test_length_makes_it_incomplete(client: httpx.Client) -> None:
    body = ask(client, max_output_tokens=5, ignore_eos=True)
    assert body["status"] == "incomplete" and body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    assert streamed(client, max_output_tokens=5, ignore_eos=True)[-1]["type"] == "response.incomplete"


def test_events_of_a_message(client: httpx.Client) -> None:
    made = streamed(client, "Hi", max_output_tokens=200)
    kinds = [e["type"].removeprefix("response.") for e in made]
    middle = [k for k in kinds if k != "output_text.delta"]
    assert middle == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    text = "".join(e["delta"] for e in made if e["type"] == "response.output_text.delta")
    final = made[-1]["response"]
    assert text == final["output"][0]["content"][0]["text"] == made[kinds.index("output_text.done")]["text"]
    assert plain(final) == plain(ask(client, "Hi", max_output_tokens=200))
    assert {e["item_id"] for e in made if "item_id" in e} == {final["output"][0]["id"]}


def test_events_of_a_call(client: httpx.Client) -> None:
    fields = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 60}
    made = streamed(client, "Add 3", **fields)
    arguments = "".join(e["delta"] for e in made if e["type"] == "response.function_call_arguments.delta")
    [item] = made[-1]["response"]["output"]
    assert item["type"] == "function_call" and item["name"] == "add" and item["call_id"].startswith("call_")
    assert item["arguments"] == arguments and set(json.loads(arguments)) == {"a"}
    kinds = [e["type"] for e in made]
    assert "response.content_part.added" not in kinds and "response.function_call_arguments.done" in kinds
    assert plain(ask(client, "Add 3", **fields)) == plain(made[-1]["response"])


def test_thoughts_are_items(client: httpx.Client) -> None:
    made = streamed(client, text={"format": THOUGHTFUL}, max_output_tokens=30)
    output = made[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert "response.reasoning_text.delta" in [e["type"] for e in made]
    assert made[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    # They may be sent back.
    again = [{"role": "user", "content": "Hi"}, *output, {"role": "user", "content": "And?"}]
    assert ask(client, again, max_output_tokens=5)["output"]


def test_items_become_the_conversation(client: httpx.Client) -> None:
    first = ask(client, "Add 3", tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_output_tokens=60)
    call = first["output"][0]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Add 3"}]},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "4"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Four.", "annotations": []}],
        },
        {"role": "user", "content": "Thanks"},
    ]
    body = ask(client, items, instructions="Be brief.", tools=[TOOL], max_output_tokens=5)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add 3"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "add", "arguments": call["arguments"]}}
            ],
        },
        {"role": "tool", "tool_call_id": "x", "content": "4"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Thanks"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": TOOL["parameters"]}}]
    count = client.post("/tokenize", json={"messages": messages, "tools": tools}).json()["count"]
    assert body["usage"]["input_tokens"] == count


def test_formats_and_logprobs(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "verdict", "schema": schema, "strict": True}}
    body = ask(client, text=form, max_output_tokens=30, include=["message.output_text.logprobs"], top_logprobs=1)
    [part] = body["output"][0]["content"]
    assert isinstance(json.loads(part["text"])["ok"], bool) and body["text"] == form
    assert len(part["logprobs"]) > 0 and len(part["logprobs"][0]["top_logprobs"]) == 1


def test_trace_and_echoes(client: httpx.Client) -> None:
    body = ask(client, max_output_tokens=10, trace=True, metadata={"a": "b"}, temperature=0.5, user="me")
    assert sum(len(r["tokens"]) for r in body["geminate"]["rounds"]) == body["usage"]["output_tokens"]
    assert (body["metadata"], body["temperature"], body["user"]) == ({"a": "b"}, 0.5, "me")
    assert body["timings"]["predicted_n"] == body["usage"]["output_tokens"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("conversation", "c"),
        ("prompt", {}),
        ("truncation", "always"),
        ("include", ["made_up"]),
    ],
)
def test_what_is_not_there_is_refused_by_name(client: httpx.Client, field: str, value: object) -> None:
    response = client.post(PATH, json={"model": MODEL, "input": "Hi", field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"].split("[")[0] == field


def test_an_error_before_the_stream_is_a_status(client: httpx.Client) -> None:
    response = client.post(PATH, json={"model": MODEL, "input": "word " * 5000, "stream": True})
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_items_by_reference(client: httpx.Client, way: str) -> None:
    """The second turn of the AI SDK's default provider names the first turn's output."""
    question, fields = {"role": "user", "content": "Hi"}, {"max_output_tokens": 60}
    first = (
        ask(client, [question], **fields) if way == "whole" else streamed(client, [question], **fields)[-1]["response"]
    )
    again = {"role": "user", "content": "And?"}
    by_name = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    both = [ask(client, [question, *items, again], **fields) for items in (first["output"], by_name)]
    assert plain(both[0]) == plain(both[1]) and both[0]["usage"]["input_tokens"] == both[1]["usage"]["input_tokens"]
    unkept = ask(client, [question], store=False, **fields)["output"][0]["id"]
    for unknown in ("msg_unknown", unkept):
        body = {"model": MODEL, "input": [{"type": "item_reference", "id": unknown}, again]}
        error = client.post(PATH, json=body).json()["error"]
        assert error["param"] == "input[0].id" and "store = false" in error["message"]


def test_the_oldest_items_give_way() -> None:
    kept = KeptItems(3000)
    for number in range(50):
        kept.keep("a", [{"id": f"msg_{number}", "text": "x" * (number * 40)}])
        assert kept.used <= 3000
    found = kept.find("a", "msg_49")
    assert found is not None and json.loads(found)["text"] == "x" * 1960
    assert kept.find("a", "msg_3") is kept.find("b", "msg_49") is kept.find("", "msg_49") is None
    none = KeptItems(0)
    none.keep("a", [{"id": "msg_1"}])
    assert none.used == 0
