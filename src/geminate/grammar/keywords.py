"""Brings JSON schemas to the form that grammars are made of: checked, without keywords that say nothing.

What the standard makes an annotation is removed, so that it is accepted everywhere; so is every keyword that excludes
no value, such as ``uniqueItems: false``. A keyword that excludes values and cannot be enforced is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from geminate.errors import ParameterError, shown
from geminate.grammar.disjoint import disjoint
from geminate.grammar.json_schema import schema_text

TYPES = ("string", "number", "integer", "boolean", "null", "object", "array")
FORMATS = frozenset(
    ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
)
"""String formats that are enforced; all others are annotations."""
UNSUPPORTED = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    "unevaluatedItems", "propertyNames", "contains", "minContains", "maxContains", "uniqueItems", "$dynamicRef",
)  # fmt: skip
_WAYS_OUT = {
    "uniqueItems": "remove it, and drop duplicates from the output",
    "propertyNames": "only an enum or constant of names can be enforced; remove it, or declare the properties",
}
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment",
     "contentEncoding", "contentMediaType", "contentSchema"),
)  # fmt: skip
_ONE = (
    "items", "additionalItems", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contains",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LARGEST_MULTIPLE = 2**53
# Most schemas have few keywords and there may be thousands, so each step first asks whether any of its own is there.
_INSIDE = frozenset((*_ONE, *_SEVERAL, *_NAMED))
_LISTED = frozenset((*_SEVERAL, "items"))
_SHAPED = frozenset((*_SEVERAL, *_NAMED, "required", "enum", "pattern", "format", "$ref"))
_MEASURES = frozenset((*_COUNTS, *_NUMBERS))
_IDLE = frozenset((*UNSUPPORTED, "patternProperties", "allOf", "prefixItems"))


def plain_schema(schema: object, label: str, *, refuse: bool) -> dict[str, Any]:
    """A copy of the schema without annotations and keywords that exclude nothing.

    Args:
        label: what messages call the schema.
        refuse: whether to refuse keywords that cannot be enforced.

    Raises:
        ParameterError: not a valid schema, or an unsupported keyword; the message says where.
    """
    whole: dict[str, Any] = json.loads(schema_text(schema))
    try:
        _Cleaner(whole, refuse).clean(whole, label)
    except RecursionError as error:
        raise ParameterError(f"{label} is nested too deeply; use $defs and $ref") from error
    return whole


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside a schema, with the paths to them."""
    if _INSIDE.isdisjoint(schema):
        return
    for key, value in list(schema.items()):
        if key not in _INSIDE:
            continue
        if isinstance(value, dict) and key in _NAMED:
            yield from ((f".{name}" if key == "properties" else f".{key}.{name}", i) for name, i in value.items())
        elif isinstance(value, list) and key in _LISTED:
            yield from ((f".{key}[{i}]", inner) for i, inner in enumerate(value))
        elif key in _ONE and not isinstance(value, list):
            yield f".{key}", value


def _says_nothing(schema: object) -> bool:
    return schema is True or (isinstance(schema, dict) and not schema.keys() - _ANNOTATIONS)


class _Cleaner:
    """Changes a schema in place."""

    def __init__(self, root: object, refuse: bool) -> None:
        self._root, self._refuse = root, refuse

    def clean(self, schema: object, path: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise ParameterError(f"{path}: a schema must be an object, true or false, not {shown(schema)}")
        _check_shape(schema, path)
        _drop_annotations(schema)
        _tuple(schema)
        for where, inner in subschemas(schema):
            self.clean(inner, path + where)
        _drop_idle(schema)
        _names(schema)
        _bound_multiples(schema)
        if "oneOf" in schema and "anyOf" not in schema and disjoint(schema["oneOf"], self._root):
            schema["anyOf"] = schema.pop("oneOf")
        if self._refuse and "oneOf" in schema:
            raise ParameterError(
                f"{path}: the options of 'oneOf' may overlap, which cannot be enforced; use anyOf, or give them "
                "different types or constants"
            )
        if self._refuse and not _IDLE.isdisjoint(schema):
            for keyword in UNSUPPORTED:
                if keyword in schema:
                    way = _WAYS_OUT.get(keyword, "remove it")
                    raise ParameterError(f"{path}: {keyword!r} cannot be enforced; {way}")


def _check_shape(schema: dict[str, Any], path: str) -> None:
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            raise ParameterError(f"{path}: unknown type {shown(kind)}; the types are {', '.join(TYPES)}")
    if not _SHAPED.isdisjoint(schema):
        _check_parts(schema, path)
    if not _MEASURES.isdisjoint(schema):
        _check_numbers(schema, path)


def _check_parts(schema: dict[str, Any], path: str) -> None:
    for key in _SEVERAL:
        if key in schema and not isinstance(schema[key], list):
            raise ParameterError(f"{path}: {key} must be a list of schemas, not {shown(schema[key])}")
    for key in _NAMED:
        if key in schema and not isinstance(schema[key], dict):
            raise ParameterError(f"{path}: {key} must be an object, not {shown(schema[key])}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ParameterError(f"{path}: required must be a list of strings, not {shown(required)}")
    if not isinstance(schema.get("enum", []), list):
        raise ParameterError(f"{path}: enum must be a list, not {shown(schema['enum'])}")
    for key in ("pattern", "format", "$ref"):
        if not isinstance(schema.get(key, ""), str):
            raise ParameterError(f"{path}: {key} must be a string, not {shown(schema[key])}")


def _check_numbers(schema: dict[str, Any], path: str) -> None:
    for key in _COUNTS:
        count = schema.get(key, 0)
        if isinstance(count, float) and count.is_integer():
            count = schema[key] = int(count)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ParameterError(f"{path}: {key} must be an integer from 0, not {shown(count)}")
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(exclusive), bool):  # as drafts before 6 write it
            if schema.pop(exclusive) and bound in schema:
                schema[exclusive] = schema.pop(bound)
    for key in _NUMBERS:
        value = schema.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ParameterError(f"{path}: {key} must be a number, not {shown(value)}")
    if schema.get("multipleOf", 1) <= 0:
        raise ParameterError(f"{path}: multipleOf must be above 0, not {shown(schema['multipleOf'])}")


def _drop_annotations(schema: dict[str, Any]) -> None:
    for key in schema.keys() & _ANNOTATIONS:
        del schema[key]
    if "format" in schema:
        kinds = schema.get("type", "string")
        if schema["format"] not in FORMATS or "string" not in kinds:
            del schema["format"]


def _tuple(schema: dict[str, Any]) -> None:
    """Lists of items, and what may follow them, as drafts before 2020-12 write it."""
    if isinstance(schema.get("items"), list):
        schema.setdefault("prefixItems", schema.pop("items"))
        if "additionalItems" in schema:
            schema["items"] = schema["additionalItems"]
    schema.pop("additionalItems", None)


def _drop_idle(schema: dict[str, Any]) -> None:
    """Drop keywords that exclude nothing."""
    if _IDLE.isdisjoint(schema):
        return
    for key in ("unevaluatedProperties", "unevaluatedItems", "propertyNames"):
        if key in schema and _says_nothing(schema[key]):
            del schema[key]
    for key in ("dependentRequired", "dependentSchemas", "dependencies", "patternProperties", "allOf", "prefixItems"):
        if schema.get(key) in ({}, []):
            del schema[key]
    if schema.get("uniqueItems") is False or (schema.get("uniqueItems") is True and schema.get("maxItems", 2) < 2):
        del schema["uniqueItems"]
    if schema.get("not") is False:
        del schema["not"]
    if "contains" not in schema:
        schema.pop("minContains", None)
        schema.pop("maxContains", None)
    if "if" not in schema or not ("then" in schema or "else" in schema):
        for key in ("if", "then", "else"):
            schema.pop(key, None)


def _names(schema: dict[str, Any]) -> None:
    """Drop or enforce ``propertyNames``."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict):
        return
    if names == {"type": "string"}:
        del schema["propertyNames"]
        return
    if names.keys() - {"type", "enum", "const"} or names.get("type", "string") != "string":
        return
    known = [names["const"]] if "const" in names else names.get("enum", [])
    if ("enum" in names and "const" in names) or "patternProperties" in schema or "$ref" in schema:
        return
    declared, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    if schema.get("type") != "object" or any(name not in known for name in (*declared, *schema.get("required", []))):
        return
    # With an enum of names, the others are properties that exist and must not occur.
    schema["properties"] = {**declared, **{n: more for n in known if isinstance(n, str) and n not in declared}}
    schema["additionalProperties"] = False
    del schema["propertyNames"]


def _bound_multiples(schema: dict[str, Any]) -> None:
    """Give multiples bounds: one of any length cannot be cut off at a digit where it happens to be no multiple."""
    if "multipleOf" not in schema:
        return
    limit = _LARGEST_MULTIPLE
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is None:
        schema["maximum"] = limit if low is None or low < limit else int(low) * 10
    if low is None:
        schema["minimum"] = -limit if high is None or high > -limit else int(high) * 10
