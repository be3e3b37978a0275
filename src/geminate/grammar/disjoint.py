"""Whether the options of a ``oneOf`` exclude each other, so that it can be enforced as an ``anyOf``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from geminate.errors import ParameterError
from geminate.grammar.json_schema import is_number, resolve

_MAX_OPTIONS, _MAX_DEPTH = 100, 6


def disjoint(options: list[Any], root: object) -> bool:
    """Whether no value can satisfy two of the options; False where that is not certain.

    Args:
        root: the document that references are resolved in.
    """
    if len(options) > _MAX_OPTIONS:
        return False
    return all(_apart(one, other, root, _MAX_DEPTH) for one, other in itertools.combinations(options, 2))


def _apart(one: Any, other: Any, root: object, depth: int) -> bool:
    one, other = _target(one, root), _target(other, root)
    if one is False or other is False:
        return True
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or not depth:
        return False
    for several, alone in ((one, other), (other, one)):
        for key in ("anyOf", "oneOf"):
            inner = several.get(key)
            if isinstance(inner, list) and inner and all(_apart(i, alone, root, depth - 1) for i in inner):
                return True
    if _values_apart(one, other) or not _kinds(one) & _kinds(other):
        return True
    if _kinds(one) & _kinds(other) <= {"number"} and (_range_apart(one, other) or _range_apart(other, one)):
        return True
    if _kinds(one) & _kinds(other) <= {"object"}:
        needed = set(_list(one.get("required"))) & set(_list(other.get("required")))
        first, second = one.get("properties"), other.get("properties")
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            return any(_apart(first.get(n, True), second.get(n, True), root, depth - 1) for n in sorted(needed))
    return False


def _target(schema: Any, root: object) -> Any:
    for _ in range(16):
        if not (isinstance(schema, Mapping) and "$ref" in schema):
            return schema
        try:
            schema = resolve(root, schema["$ref"])
        except ParameterError:  # reported where the schema is compiled
            return True
    return True


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types of the values; an integer is a number."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        kinds = [kinds]
    if isinstance(kinds, list):
        return {"number" if kind == "integer" else str(kind) for kind in kinds}
    values = _values(schema)
    if values is None:
        return {"string", "number", "boolean", "null", "object", "array"}
    return {_kind(value) for value in values}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names = {str: "string", type(None): "null", dict: "object", list: "array"}
    return names[type(value)]


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _values_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = _values(one), _values(other)
    if first is None or second is None:
        return False
    return not {_text(value) for value in first} & {_text(value) for value in second}


def _text(value: Any) -> str:
    """Equal for values that are equal in JSON, where 1.0 is 1."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, list):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(plain(value), sort_keys=True)


def _range_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether every number of ``one`` is below every number of ``other``."""
    tops = [(one[key], key == "maximum") for key in ("maximum", "exclusiveMaximum") if is_number(one.get(key))]
    bottoms = [(other[key], key == "minimum") for key in ("minimum", "exclusiveMinimum") if is_number(other.get(key))]
    return any(
        top < bottom or (top == bottom and not (closed and included))
        for top, closed in tops
        for bottom, included in bottoms
    )


def _list(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
