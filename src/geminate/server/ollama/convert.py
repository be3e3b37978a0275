"""Requests of Ollama's API as those of ``/v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from geminate.server.http.errors import bad_request
from geminate.server.http.parsing import explain
from geminate.server.ollama.schemas import (
    GenerateRequest,
    OllamaChatRequest,
    OllamaMessage,
    OllamaRequest,
    Options,
)
from geminate.server.openai.schemas_chat import ChatRequest, CompletionRequest
from geminate.server.state import ServerState

_M = TypeVar("_M", bound=BaseModel)
_SAME = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")
LATEST = ":latest"


def known_name(state: ServerState, name: str) -> str:
    """The name without ``:latest``, which Ollama's clients add, unless a model is called so."""
    return name if name in state.names else name.removesuffix(LATEST)


def chat_request(body: OllamaChatRequest, name: str) -> ChatRequest:
    """A conversation for the chat route.

    Raises:
        ApiError: a tool result without its call, or what the chat route refuses.
    """
    raw = _common(body, name)
    raw["messages"] = made = _messages(body.messages or ())
    if made and made[-1]["role"] == "assistant" and not made[-1]["tool_calls"]:
        raw["continue_final_message"] = True
    if body.tools:
        raw["tools"] = [{"type": "function", "function": tool.function.model_dump()} for tool in body.tools]
    return _made(ChatRequest, raw)


def question(body: GenerateRequest, name: str) -> ChatRequest:
    """A conversation of one question for the chat route.

    Raises:
        ApiError: what the chat route refuses.
    """
    raw = _common(body, name)
    system = [{"role": "system", "content": body.system}] if body.system else []
    raw["messages"] = [*system, {"role": "user", "content": body.prompt or ""}]
    return _made(ChatRequest, raw)


def continuation(body: GenerateRequest, name: str, max_tokens: int) -> CompletionRequest:
    """A text for the completion route.

    Raises:
        ApiError: a field that needs the chat template, or what the completion route refuses.
    """
    for field in ("system", "format", "response_format", "think"):
        if getattr(body, field):
            raise bad_request(f"{field} cannot be combined with raw: it needs the chat template", field)
    raw = _common(body, name)
    raw.setdefault("max_tokens", max_tokens)
    raw["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
    raw.pop("top_logprobs", None)
    return _made(CompletionRequest, {**raw, "prompt": body.prompt or ""})


def _made(kind: type[_M], raw: dict[str, Any]) -> _M:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw) from None


def _common(body: OllamaRequest, name: str) -> dict[str, Any]:
    raw: dict[str, Any] = {"model": name, "speculation": body.speculation, "trace": body.trace}
    if body.logprobs or body.top_logprobs is not None:
        raw.update(logprobs=body.logprobs, top_logprobs=body.top_logprobs)
    if body.think is not None:
        raw["chat_template_kwargs"] = {"enable_thinking": body.think is not False}
    if body.format and body.response_format is not None:
        raise bad_request("set only one of format and response_format", "response_format")
    if body.response_format is not None:
        raw["response_format"] = body.response_format.model_dump(by_alias=True)
    elif body.format == "json":
        raw["response_format"] = {"type": "json_object"}
    elif body.format:
        raw["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": body.format}}
    return {**raw, **({} if body.options is None else _sampling(body.options))}


def _sampling(options: Options) -> dict[str, Any]:
    """The options under the names of OpenAI's API."""
    made = {name: getattr(options, name) for name in _SAME}
    if options.num_predict is not None and options.num_predict > 0:
        made["max_tokens"] = options.num_predict
    if options.top_k is not None:
        made["top_k"] = max(options.top_k, 0)
    if options.seed is not None and options.seed >= 0:
        made["seed"] = options.seed
    stops = [options.stop] if isinstance(options.stop, str) else options.stop or []
    made["stop"] = [stop for stop in stops if stop] or None
    if options.repeat_penalty is not None and options.repeat_last_n != 0:
        made["repetition_penalty"] = options.repeat_penalty
    return made


def _messages(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # id and name of calls without a result
    number = 0
    for index, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.role == "tool":
            entry["tool_call_id"] = _call_of(open_calls, message, f"messages[{index}]")
        elif message.role == "assistant":
            entry["reasoning_content"] = message.thinking
            calls = []
            for call in message.tool_calls or ():
                id = call.id or f"call_{number}"
                number += 1
                function = {"name": call.function.name, "arguments": json.dumps(call.function.arguments or {})}
                calls.append({"id": id, "type": "function", "function": function})
                open_calls.append((id, call.function.name))
            entry["tool_calls"] = calls or None
        made.append(entry)
    return made


def _call_of(open_calls: list[tuple[str, str]], message: OllamaMessage, where: str) -> str:
    """The id of the call that a result belongs to: by its id, else by the tool's name, else the first without one.

    Raises:
        ApiError: there is none.
    """
    name = message.tool_name or message.name
    found = [call for call in open_calls if call[0] == message.tool_call_id]
    found = found or [call for call in open_calls if name is None or call[1] == name]
    if not found:
        what = "any tool" if name is None else repr(name[:100])
        raise bad_request(f"{where}: there is no earlier call of {what} without a result", where)
    open_calls.remove(found[0])
    return found[0][0]
