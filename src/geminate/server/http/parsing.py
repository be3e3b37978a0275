"""From bytes to a validated request; every malformed body becomes a 400 that names the field."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from geminate.server.http.errors import ApiError, bad_request
from geminate.server.http.heap import request_trim
from geminate.server.http.logs import context_of
from geminate.server.http.tolerance import Level, apply

MAX_DEPTH = 64
MAX_KEYS = 1000  # of one object: every unknown key would be an error of its own
MAX_ITEMS = 20_000  # objects and arrays: validation holds the interpreter for some microseconds each
LARGE = 100_000  # bytes of a body that is parsed aside, one at a time: it takes up to a hundred times its size
_large = asyncio.Semaphore(1)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_M = TypeVar("_M", bound=BaseModel)
_TEXT_ONLY = ("image_url", "input_audio", "file", "input_image", "input_file", "image", "document", "audio", "video")


class ClientGone(Exception):
    """The client closed the connection before the response was sent."""


async def parse(
    request: Request,
    model: type[_M],
    ready: Callable[[], object],
    tolerated: Level | None = None,
    *,
    any_type: bool = False,
) -> _M:
    """Parse the request's body into ``model``.

    Args:
        tolerated: rules for what has no effect; the names of what they drop go to the log and into a header.
        any_type: take a body of any content type from what is no browser, for an API whose users send it with
            ``curl -d``.
        ready: raises if the server accepts no requests; called only after the body has been received, because
            closing the connection earlier would reset it and lose the error response.

    Raises:
        ApiError: 400, 413, 415 or 503. ClientGone: the client disconnected before sending the body.
    """
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ClientGone from None
    ready()
    # Browsers send other content types across origins without a CORS preflight.
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json" and not (any_type and "origin" not in request.headers):
        given = f", not {kind[:100]!r}" if kind else ""
        raise bad_request(f"the body must be sent with 'Content-Type: application/json'{given}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise ApiError(415, f"Content-Encoding {coding[:50]!r} is not supported; send the body as it is")
    context = context_of(request.scope)
    if len(body) <= LARGE:
        return validated(body, model, tolerated, context.ignored, strict=context.strict)
    async with _large:
        try:
            return await asyncio.to_thread(validated, body, model, tolerated, context.ignored, strict=context.strict)
        finally:
            request_trim()


def validated(
    body: bytes,
    model: type[_M],
    tolerated: Level | None = None,
    ignored: list[str] | None = None,
    *,
    strict: bool = False,
) -> _M:
    """A body as ``model``.

    Args:
        tolerated: rules for what has no effect. ignored: gets the names of what they dropped. strict: refuse that.

    Raises:
        ApiError: 400 with the first faults.
    """
    data = read_json(body)
    if not isinstance(data, dict):
        raise bad_request(f"the body must be a JSON object, not {_json_name(data)}")
    if tolerated is not None:
        dropped = apply(tolerated, data, strict=strict)
        if ignored is not None:
            ignored.extend(dropped)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, data) from None


def read_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, no number that overflows, at most `MAX_DEPTH` levels deep, `MAX_ITEMS` objects
    and arrays, `MAX_KEYS` keys an object.

    Raises:
        ApiError: 400.
    """
    if not body:
        raise bad_request("the body is empty; a JSON object is expected")
    try:
        text = body.decode("utf-8")
        data = json.loads(text, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise bad_request(
            "the body holds an unpaired surrogate (\\ud800 to \\udfff), which is not a character"
        ) from None
    except RecursionError:
        raise bad_request(f"the body is nested too deeply; the limit is {MAX_DEPTH} levels") from None
    except ValueError as error:  # bad JSON, or an integer of thousands of digits
        many = "int_max_str_digits" in str(error)
        why = "a number in it has too many digits" if many else str(error)[:200]
        raise bad_request(f"the body is not valid JSON: {why}") from None
    _check_values(data)
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_values(data: Any) -> None:
    level, items = [data], 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        items += sum(isinstance(value, (dict, list)) for value in level)
        if items > MAX_ITEMS:
            raise bad_request(f"the body holds more than {MAX_ITEMS:,} objects and arrays")
        for value in level:
            if isinstance(value, dict):
                if len(value) > MAX_KEYS:
                    raise bad_request(f"the body holds an object with {len(value):,} keys; the limit is {MAX_KEYS:,}")
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(item for item in value if type(item) is not int)
            elif isinstance(value, float) and not math.isfinite(value):
                raise bad_request("the body holds a number too large for a float")
        if not below:
            return
        level = below
    raise bad_request(f"the body is nested too deeply; the limit is {MAX_DEPTH} levels")


def explain(error: ValidationError, data: dict[str, Any]) -> ApiError:
    """400 for the deepest error, since among a union's branches that is most likely the one the client meant."""
    found = [(_place(item, data), item) for item in error.errors(include_url=False)]
    place, item = max(found, key=lambda pair: len(pair[0]))
    name = _path(place)
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return bad_request(f"{name} is not a supported field of this request", name, "unknown_field")
    if kind in ("missing", "union_tag_not_found"):
        return bad_request(f"{name} is missing", name, "missing_field")
    if kind == "none_required":
        return bad_request(f"{name} is not supported", name, "unsupported_field")
    part = value if isinstance(value, dict) else {}
    if part.get("type") in _TEXT_ONLY or value in _TEXT_ONLY if isinstance(value, (str, dict)) else False:
        return bad_request(f"{name}: this server accepts text only; images, audio and files are not supported", name)
    # Several branches of a union failed at the same place: report what each of them expects.
    here = [i for p, i in found if p == place and i["type"] != "extra_forbidden"]
    # A branch that takes this kind of value says more than one that takes another kind.
    fitting = [i for i in here if i["type"] not in _KINDS]
    item = fitting[0] if fitting else item
    messages = list(dict.fromkeys(_said(i) for i in fitting or here))
    return bad_request(f"{name}: {'; or '.join(messages or [_said(item)])}{_shown(item)}", name)


_KINDS = {
    "string_type": "must be a string",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _said(item: Any) -> str:
    """An error in words, without the names of classes and validators."""
    kind, message = item["type"], str(item["msg"])
    if kind == "union_tag_invalid":
        expected = str(item["ctx"]["expected_tags"])
        return f"must be one of {expected}" if "," in expected else f"must be {expected}"
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in ("too_long", "too_short"):
        bound = (
            f"at most {item['ctx']['max_length']}" if kind == "too_long" else f"at least {item['ctx']['min_length']}"
        )
        return f"must have {bound} items, not {item['ctx']['actual_length']:,}"
    if kind in ("string_too_long", "string_too_short"):
        most = kind == "string_too_long"
        bound = f"at most {item['ctx']['max_length']:,}" if most else f"at least {item['ctx']['min_length']:,}"
        return f"must have {bound} character{'s' * (not bound.endswith(' 1'))}, not {len(item['input']):,}"
    return message.replace("Input should be", "must be", 1).replace("String should", "must", 1)


def _shown(item: Any) -> str:
    value = item["ctx"]["tag"] if item["type"] == "union_tag_invalid" else item.get("input")
    if item["type"] in ("string_too_long", "string_too_short"):
        return ""
    if isinstance(value, (dict, list)):
        return f", not {_json_name(value)}" if item["type"] in _KINDS else ""
    text = json.dumps(value, default=str)
    return f", not {text if len(text) <= 80 else text[:77] + '...'}"


def _place(item: Any, data: Any) -> tuple[int | str, ...]:
    """The part of pydantic's ``loc`` that is a path into the data, without the names of union branches."""
    loc = item["loc"]
    if item["type"] == "missing":
        return (*_inside(loc[:-1], data), loc[-1])
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(item["ctx"]["discriminator"]).strip("'")
        return (*_inside(loc, data), "type" if "(" in tag else tag)
    return _inside(loc, data)


def _inside(loc: tuple[int | str, ...], data: Any) -> tuple[int | str, ...]:
    """The longest path into the data that ``loc`` holds: a branch may have the name of a field."""
    best: tuple[int | str, ...] = ()
    for index, step in enumerate(loc):
        into_list = isinstance(data, list) and isinstance(step, int) and step < len(data)
        if into_list or (isinstance(data, dict) and step in data):
            path = (step, *_inside(loc[index + 1 :], data[step]))
            if len(path) > len(best):
                best = path
            if len(path) == len(loc) - index:
                break
    return best


def _path(place: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return path.lstrip(".")[:200] or "the body"


def _json_name(value: Any) -> str:
    names = {
        list: "an array",
        dict: "an object",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
