"""Conversations in the form a chat template understands: known roles, calls as values, results in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
RAW = "raw"  # the name of arguments that are no JSON object
_TOOL_ROLE = re.compile(r"""[!=]=\s*['"]tool['"]|['"]tool['"]\s*[!=]=|\bin\s*[\[(][^\])]*['"]tool['"]""")


def call_arguments(text: str) -> dict[str, Any]:
    """The arguments of a tool call from their JSON text, ``""`` meaning none.

    Text that is no JSON object, such as that of a call that was cut off, becomes ``{"raw": text}``: the model sees what
    it wrote, and the conversation goes on.
    """
    if not text.strip():
        return {}
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        values = None
    return values if isinstance(values, dict) else {RAW: text}


def _refuse(name: str) -> None:
    raise ValueError(name)


def prepared(messages: Sequence[Message], source: str) -> list[Message]:
    """The messages as the template with this source understands them.

    Arguments as JSON text become objects. For a template that does not name the role ``developer`` it becomes
    ``system``. One that names ``tool_responses`` and no role ``tool`` (Gemma 4's first ones) finds calls, their results
    and the answer in one message.
    """
    made = [_with_objects(message) for message in messages]
    if "developer" not in source:
        made = [{**m, "role": "system"} if m["role"] == "developer" else m for m in made]
    if "tool_responses" in source and not _TOOL_ROLE.search(source):
        made = _in_their_calls(made)
    return made


def _with_objects(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    """A call with its arguments as an object, whether they stand under ``function`` or beside the name."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("arguments"), str):
        call = {**call, "arguments": call_arguments(call["arguments"])}
    if isinstance(call.get("function"), Mapping):
        call = {**call, "function": _with_object(call["function"])}
    return call


def _in_their_calls(messages: Sequence[Message]) -> list[Message]:
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made and made[-1]["role"] in ("assistant", "model") else None
        if message["role"] == "tool":
            caller = _caller(made) if last is None or not last.get("tool_responses") else last
            result = {"name": _name(message, caller), "response": _response(message.get("content"))}
            made[-1] = {**caller, "tool_responses": [*(caller.get("tool_responses") or ()), result]}
        elif (
            message["role"] in ("assistant", "model")
            and last is not None
            and last.get("tool_responses")
            and not (message.get("tool_calls") or last.get("content"))
        ):
            made[-1] = {**last, "content": message.get("content")}
        else:
            made.append(message)
    return made


def _caller(made: list[Message]) -> Message:
    """The last message, to hold results. These templates write the content behind them: a text before goes apart."""
    if not made or made[-1]["role"] not in ("assistant", "model"):
        made.append({"role": "assistant", "content": ""})
    caller = made[-1]
    if caller.get("content"):
        made[-1:] = [
            {key: value for key, value in caller.items() if key not in ("tool_calls", "reasoning_content")},
            {**caller, "content": ""},
        ]
    return made[-1]


def _name(message: Message, caller: Message) -> str:
    """The function whose result a message is: by its own name, by the call's id, or by its place among the calls."""
    if message.get("name"):
        return str(message["name"])
    calls = [call for call in caller.get("tool_calls") or () if isinstance(call, Mapping)]
    place = len(caller.get("tool_responses") or ())
    found = [call for call in calls if call.get("id") and call.get("id") == message.get("tool_call_id")]
    call = found[0] if found else calls[place] if place < len(calls) else {}
    return str((call.get("function") or call).get("name") or "unknown")


def _response(content: Any) -> Any:
    """A result as the template writes it: a mapping's fields, or one value."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else content
