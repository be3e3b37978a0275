"""Rules of `geminate.server.openai.tolerated` that look at more than one value."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from geminate.server.http.errors import ApiError, bad_request
from geminate.server.http.parsing import read_json
from geminate.server.http.tolerance import Place, Reading, refused, same

LEAST_TOP_P: Final = 1e-9
"""Instead of 0, which as the limit of small values keeps the most likely token alone."""
INCLUDES = "message.output_text.logprobs"
# Outputs of tools that this server does not have, and reasoning that it does not encrypt: there are none to include.
_EMPTY_INCLUDES = (
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
)
_ESCAPE = re.compile(r"[\\.+*?()|\[\]{}^$#&~\- ]")
_CUT_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?\Z")


def stop(reading: Reading, place: Place, key: str) -> None:
    """An empty stop string stops nothing."""
    value = place.owner[key]
    kept = [item for item in value if item != ""] if isinstance(value, list) else value
    if kept in ("", []):
        del place.owner[key]
    else:
        place.owner[key] = kept


def repeat_penalty(reading: Reading, place: Place, key: str) -> None:
    """llama.cpp's penalty looks at the last 64 tokens unless ``repeat_last_n`` says otherwise."""
    value, last = place.owner[key], place.owner.get("repeat_last_n")
    if same(value, 1) or same(last, 0):
        del place.owner[key]
    elif same(last, -1):
        del place.owner["repeat_last_n"]
        del place.owner[key]
        place.owner.setdefault("repetition_penalty", value)
    else:
        raise refused(place.name(key), "use repetition_penalty, which looks at the whole context")


def response_format(reading: Reading, place: Place, key: str) -> None:
    """``json_object`` with a schema, and a schema without its wrapper or its name."""
    form = place.owner[key]
    if not isinstance(form, dict) or form.get("type") not in ("json_object", "json_schema"):
        return
    schema = form.get("schema")
    if isinstance(schema, dict) and form.get("json_schema") is None:
        place.owner[key] = {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}
    elif schema is None and "schema" in form:
        del form["schema"]
    inner = form.get("json_schema")
    if isinstance(inner, dict) and inner.get("name") is None:
        inner["name"] = "schema"


def guided(reading: Reading, place: Place, key: str) -> None:
    """vLLM's and llama.cpp's fields for structured output as ``response_format``."""
    name, value = place.name(key), place.owner.pop(key)
    if key == "structured_outputs":
        given = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
        [(kind, value)] = given.items() if len(given) == 1 else [("", None)]
    else:
        kind = key.removeprefix("guided_").removesuffix("_schema")
    form: dict[str, Any]
    if kind == "json":
        schema = _as_object(value) if isinstance(value, str) else value
        if not isinstance(schema, dict):
            raise bad_request(f"{name} must be a JSON schema", name)
        form = {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}
    elif kind == "regex" and isinstance(value, str):
        form = {"type": "regex", "regex": value}
    elif kind == "choice" and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        form = {"type": "regex", "regex": "|".join(_ESCAPE.sub(r"\\\g<0>", one) for one in value)}
    else:
        raise refused(name, "use response_format with the type 'json_schema', 'regex' or 'grammar' (Lark)")
    if place.owner.get("response_format", form) != form:
        raise bad_request(f"{name} and response_format differ; set only one of them", name)
    place.owner["response_format"] = form


def include(reading: Reading, place: Place, key: str) -> None:
    """Data that could only be empty here is left out."""
    value = place.owner[key]
    if isinstance(value, list):
        place.owner[key] = kept = [one for one in value if one not in _EMPTY_INCLUDES]
        if len(kept) < len(value):
            reading.note(place, key)
        if not kept:
            del place.owner[key]


def reasoning(reading: Reading, place: Place, key: str) -> None:
    """Another name of ``reasoning_content``."""
    value = place.owner[key]
    if isinstance(value, str) and place.owner.get("reasoning_content") in (None, value):
        place.owner["reasoning_content"] = place.owner.pop(key)
    else:
        reading.ignore(place, key)


def refusal(reading: Reading, place: Place, key: str) -> None:
    """The text of a refusal is what the assistant said."""
    value = place.owner.pop(key)
    if isinstance(value, str) and not place.owner.get("content"):
        place.owner["content"] = value
    elif not isinstance(value, str):
        place.owner[key] = value  # for the validation
    else:
        reading.note(place, key)


def parts(reading: Reading, place: Place, key: str) -> None:
    """Parts of chat messages: texts under other names; other models' thoughts have no effect."""
    _parts(reading, place, key, "text", ("input_text", "output_text"))


def output_parts(reading: Reading, place: Place, key: str) -> None:
    """Parts of response items."""
    role = place.owner.get("role")
    _parts(reading, place, key, "output_text" if role == "assistant" else "input_text", ("text",))


def _parts(reading: Reading, place: Place, key: str, name: str, others: tuple[str, ...]) -> None:
    value = place.owner[key]
    if not isinstance(value, list):
        return
    kept: list[Any] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            part = {"type": name, "text": part.get("refusal")}
        elif kind in others:
            part = {**part, "type": name}
        elif kind in ("thinking", "redacted_thinking", "reasoning"):
            reading.note(place, key)
            continue
        kept.append(part)
    place.owner[key] = kept


def arguments(reading: Reading, place: Place, key: str) -> None:
    """Arguments of an earlier call: an object as it is, and of text that is no JSON as much as can be read."""
    value = place.owner[key]
    if isinstance(value, dict):
        place.owner[key] = json.dumps(value)
    elif isinstance(value, str) and value and _as_object(value) is None:
        place.owner[key] = json.dumps(readable(value))
        reading.note(place, key)


def _as_object(text: str) -> dict[str, Any] | None:
    try:
        value = read_json(text.encode())
    except (ApiError, UnicodeEncodeError):
        return None
    return value if isinstance(value, dict) else None


def readable(text: str) -> dict[str, Any]:
    """The object that a text begins, closed where it ends; what is not complete enough to read is left out.

    A call that was cut off has such arguments: ``{"path": "Amer`` is read as ``{"path": "Amer"}``.
    """
    closers: list[str] = []
    kept, kept_closers, in_string, escaped = 0, "", False, False
    for index, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string, escaped = True, False
        elif char in "{[":
            closers.append("}" if char == "{" else "]")
            kept, kept_closers = index + 1, "".join(reversed(closers))
        elif char in "}]" and closers:
            closers.pop()
            kept, kept_closers = index + 1, "".join(reversed(closers))
        elif char == ",":
            kept, kept_closers = index, "".join(reversed(closers))
    end = "".join(reversed(closers))
    whole = _CUT_ESCAPE.sub("", text) + '"' + end if in_string else text + end
    for candidate in (whole, text[:kept] + kept_closers):
        found = _as_object(candidate)
        if found is not None:
            return found
    return {}
