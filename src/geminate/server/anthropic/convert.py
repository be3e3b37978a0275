"""A request of ``/v1/messages`` as one of ``/v1/chat/completions``, which has the same tokens and the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from geminate.server.anthropic.schemas import (
    CountRequest,
    MessagesRequest,
    NoChoice,
    OneChoice,
    OutputFormat,
    TextBlock,
    ThinkingBlock,
    ThinkingOn,
    ToolResultBlock,
    ToolUseBlock,
    UserTurn,
)
from geminate.server.http.errors import bad_request
from geminate.server.http.parsing import explain
from geminate.server.openai.schemas_chat import ChatRequest
from geminate.server.openai.schemas_common import Sampling


def chat_request(body: CountRequest) -> ChatRequest:
    """The same conversation, tools and sampling for the chat route.

    Raises:
        ApiError: a tool result without its call, a call without a result at the end, or what the chat route refuses.
    """
    raw: dict[str, Any] = {"model": body.model, "messages": [*_system(body), *_turns(body)]}
    if not isinstance(body.messages[-1], UserTurn):
        if raw["messages"][-1].get("tool_calls"):
            raise bad_request(
                "messages: the last message calls tools; add a user message with their results", "messages"
            )
        raw["continue_final_message"] = True
    if body.tools:
        raw["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                    "strict": tool.strict,
                },
            }
            for tool in body.tools
        ]
    if body.tool_choice is not None:
        raw.update(_tool_choice(body))
    if body.thinking is not None:
        raw["chat_template_kwargs"] = {"enable_thinking": isinstance(body.thinking, ThinkingOn)}
    if (form := _format(body)) is not None:
        raw["response_format"] = form
    if isinstance(body, MessagesRequest):
        raw.update(body.model_dump(include=set(Sampling.model_fields), exclude_none=True))
        raw["max_tokens"] = body.max_tokens
        raw["stop"] = body.stop_sequences or None
        raw["stream"] = body.stream
    try:
        return ChatRequest.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw) from None


def _tool_choice(body: CountRequest) -> dict[str, Any]:
    choice = body.tool_choice
    if isinstance(choice, OneChoice):
        return {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
    if choice is None or isinstance(choice, NoChoice):
        return {"tool_choice": "none"}
    if not body.tools and choice.type == "auto":
        return {}  # nothing to choose from
    made: dict[str, Any] = {"tool_choice": {"auto": "auto", "any": "required"}[choice.type]}
    if choice.disable_parallel_tool_use:
        made["parallel_tool_calls"] = False
    return made


def _format(body: CountRequest) -> dict[str, Any] | None:
    """The response format of the chat route.

    Raises:
        ApiError: there are two.
    """
    places: dict[str, Any] = {
        "output_config.format": None if body.output_config is None else body.output_config.format,
        "output_format": body.output_format,
        "response_format": body.response_format,
    }
    given = [name for name, value in places.items() if value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise bad_request(f"set only one of {' and '.join(given)}", given[1])
    form = places[given[0]]
    if isinstance(form, OutputFormat):
        return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.schema_}}
    made: dict[str, Any] = form.model_dump(by_alias=True)
    return made


def _text(content: str | Sequence[BaseModel] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block.text for block in content if isinstance(block, TextBlock))


def _system(body: CountRequest) -> list[dict[str, Any]]:
    return [] if body.system is None else [{"role": "system", "content": _text(body.system)}]


def _turns(body: CountRequest) -> Iterator[dict[str, Any]]:
    called: set[str] = set()
    for index, turn in enumerate(body.messages):
        if isinstance(turn.content, str):
            yield {"role": turn.role, "content": turn.content}
        elif isinstance(turn, UserTurn):
            yield from _user(turn, called, f"messages[{index}].content")
        else:
            message = _assistant(turn.content)
            called.update(call["id"] for call in message.get("tool_calls", ()))
            yield message


def _user(turn: UserTurn, called: set[str], where: str) -> Iterator[dict[str, Any]]:
    """The results of tools as messages of their own, text between them as the user's."""
    texts: list[str] = []
    made: list[dict[str, Any]] = []

    def speak() -> None:
        if texts:
            made.append({"role": "user", "content": "".join(texts)})
            texts.clear()

    for number, block in enumerate(turn.content):
        if isinstance(block, ToolResultBlock):
            if block.tool_use_id not in called:
                place = f"{where}[{number}].tool_use_id"
                raise bad_request(f"{place}: there is no earlier tool_use with id {block.tool_use_id[:100]!r}", place)
            speak()
            made.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)})
        elif isinstance(block, TextBlock):
            texts.append(block.text)
    speak()
    yield from made or [{"role": "user", "content": ""}]


def _assistant(blocks: Sequence[BaseModel]) -> dict[str, Any]:
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [
        {"id": b.id, "type": "function", "function": {"name": b.name, "arguments": json.dumps(b.input)}}
        for b in blocks
        if isinstance(b, ToolUseBlock)
    ]
    made: dict[str, Any] = {"role": "assistant", "content": _text(blocks)}
    if any(thoughts):
        made["reasoning_content"] = "".join(thoughts)
    if calls:
        made["tool_calls"] = calls
    return made
