"""Messages and tools in the form the chat template expects, from either API."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from geminate.server.http.errors import ApiError, bad_request
from geminate.server.http.parsing import read_json
from geminate.server.openai.schemas_chat import AssistantMessage, ChatTool, Content, Message, ToolMessage
from geminate.server.openai.schemas_common import FunctionSpec
from geminate.server.openai.schemas_responses import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    ReasoningItem,
)

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


def content_text(content: Content | None) -> str:
    """The text of a message's content, its parts joined."""
    if content is None:
        return ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Convert the messages of ``/v1/chat/completions`` for the template.

    Raises:
        ApiError: arguments that are not a JSON object, or a tool result without a matching call.
    """
    made: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message.role, "content": content_text(message.content)}
        if isinstance(message, AssistantMessage):
            if message.reasoning_content:
                entry["reasoning_content"] = message.reasoning_content
            calls = []
            for number, call in enumerate(message.tool_calls or ()):
                where = f"messages[{index}].tool_calls[{number}].function.arguments"
                calls.append(_call(call.id, call.function.name, call.function.arguments, where))
                names[call.id] = call.function.name
            if calls:
                entry["tool_calls"] = calls
        elif isinstance(message, ToolMessage):
            where = f"messages[{index}].tool_call_id"
            entry.update(_tool_result(names, message.tool_call_id, where))
            if message.name is not None and message.name != entry["name"]:
                raise bad_request(
                    f"messages[{index}].name is {message.name!r}, but tool_call_id is a call of {entry['name']!r}",
                    f"messages[{index}].name",
                )
        made.append(entry)
    return made


def response_messages(instructions: str | None, items: str | Sequence[Item]) -> list[dict[str, Any]]:
    """Convert the input of ``/v1/responses`` for the template.

    An assistant's reasoning, text and tool calls are separate items here and become one message.

    Raises:
        ApiError: as `chat_messages`.
    """
    made: list[dict[str, Any]] = []
    if instructions is not None:
        made.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*made, {"role": "user", "content": items}]
    names: dict[str, str] = {}
    reasoning: list[str] = []

    def assistant() -> dict[str, Any]:
        if not made or made[-1]["role"] != "assistant":
            made.append({"role": "assistant", "content": ""})
        if reasoning:
            made[-1]["reasoning_content"] = "".join(reasoning)
            reasoning.clear()
        return made[-1]

    for index, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            reasoning.extend(part.text for part in item.content or ())
        elif isinstance(item, FunctionCallItem):
            call = _call(item.call_id, item.name, item.arguments, f"input[{index}].arguments")
            assistant().setdefault("tool_calls", []).append(call)
            names[item.call_id] = item.name
        elif isinstance(item, FunctionOutputItem):
            text = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
            made.append(
                {"role": "tool", "content": text, **_tool_result(names, item.call_id, f"input[{index}].call_id")}
            )
        elif isinstance(item, MessageItem):
            text = item.content if isinstance(item.content, str) else "".join(part.text for part in item.content)
            if item.role == "assistant" and not (made and made[-1].get("tool_calls")):
                message = assistant()
                message["content"] += text
            elif item.role in ("system", "developer") and len(made) == 1 and made[0]["role"] == "system":
                made[0]["content"] += "\n\n" + text  # templates have room for one system message
            else:
                made.append({"role": item.role, "content": text})
    return made


def _call(id: str, name: str, arguments: str | None, where: str) -> dict[str, Any]:
    try:
        values = read_json((arguments or "{}").encode())
    except ApiError:
        values = None
    if not isinstance(values, dict):
        raise bad_request(f"{where} must be a JSON object, encoded as a string", where)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": values}}


def _tool_result(names: dict[str, str], call_id: str, where: str) -> dict[str, Any]:
    if call_id not in names:
        raise bad_request(f"{where}: there is no earlier tool call with id {call_id[:100]!r}", where)
    return {"tool_call_id": call_id, "name": names[call_id]}


def tool_functions(tools: Sequence[ChatTool] | Sequence[FunctionSpec] | None) -> list[FunctionSpec]:
    """The functions of the tools.

    Raises:
        ApiError: a duplicate name, or parameters that are not the schema of an object.
    """
    functions = [tool.function if isinstance(tool, ChatTool) else tool for tool in tools or ()]
    seen: set[str] = set()
    for index, function in enumerate(functions):
        where = f"tools[{index}].function" if tools and isinstance(tools[index], ChatTool) else f"tools[{index}]"
        if function.name in seen:
            raise bad_request(f"{where}.name: duplicate function name {function.name!r}", f"{where}.name")
        seen.add(function.name)
        parameters = function.parameters or NO_ARGUMENTS
        properties = parameters.get("properties", {})
        if parameters.get("type", "object") != "object" or not isinstance(properties, dict):
            raise bad_request(f"{where}.parameters must be the JSON schema of an object", f"{where}.parameters")
    return functions


def parameters_of(function: FunctionSpec) -> dict[str, Any]:
    """A function's parameter schema, completed with ``type`` and ``properties``, which templates rely on."""
    return {**copy.deepcopy(NO_ARGUMENTS), **(function.parameters or {})}


def template_tools(functions: Sequence[FunctionSpec]) -> list[dict[str, Any]] | None:
    """Tool declarations for the template, or None."""
    made = [
        {
            "type": "function",
            "function": {"name": f.name, "description": f.description or "", "parameters": parameters_of(f)},
        }
        for f in functions
    ]
    return made or None
